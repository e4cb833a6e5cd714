# SPDX-License-Identifier: Apache-2.0
"""The udev rule that sets an interface's TLS features whenever the link comes: at boot, and when it is made again.

systemd.link(5) has no key for TLS offload, hence udev(7). A driver that is loaded again, a card that is reset or a
virtual link that is deleted and made anew all give an ``add`` event, a change of name gives ``move``. Links inside
other network namespaces give none to the host's udev.
"""

from __future__ import annotations

import os
import re
import tempfile

from ..commands import Runner
from ..errors import KtlsError
from ..files import FileSpec

DIRECTORY = "/etc/udev/rules.d"
#: After 80-net-setup-link.rules, which decides the name that the link will have when programs are run.
_ORDER = 90
#: What udev takes as a pattern or a substitution, and what no file name should hold, is not among these.
_SAFE_NAME = re.compile(r"[A-Za-z0-9_@.-]{1,15}\Z", re.ASCII)
_VERIFY_SINCE = 254  # systemd NEWS: "udevadm verify"
_PLACES = ("/usr/sbin", "/usr/bin", "/sbin", "/bin", "/usr/local/sbin", "/usr/local/bin")


def path(interface: str) -> str:
    """Return where the rule of ``interface`` is.

    Raises :class:`KtlsError` ``interface_name_unsafe``.
    """
    if not _SAFE_NAME.match(interface) or interface in (".", ".."):
        message = (
            f"interface {interface!r} has a name that cannot stand in a udev rule; give it another one, or use "
            f"persistent: false"
        )
        raise KtlsError("interface_name_unsafe", message)
    return f"{DIRECTORY}/{_ORDER}-ktls-fleet-offload-{interface}.rules"


def spec(interface: str, wishes: dict[str, bool], program: str) -> FileSpec:
    """Return the rule file for ``wishes`` (feature to on); the wish for no file when there are none.

    ``program`` is the path of ethtool. Raises :class:`KtlsError` ``interface_name_unsafe``.
    """
    if not wishes:
        return FileSpec.absent(path(interface))
    words = " ".join(f"{name} {'on' if on else 'off'}" for name, on in sorted(wishes.items()))
    run = f'RUN+="{program} -K $name {words}"'
    text = (
        f"# Written by ktls-fleet: TLS offload of {interface}, whenever the link comes. Edited by hand, it stays so.\n"
        "# The name that udev is about to give counts; a link that keeps its name has none given.\n"
        f'ACTION=="add|move", SUBSYSTEM=="net", NAME=="{interface}", {run}\n'
        f'ACTION=="add|move", SUBSYSTEM=="net", NAME=="", KERNEL=="{interface}", {run}\n'
    )
    return FileSpec(path(interface), text.encode())


def find_ethtool(root: str = "/") -> str | None:
    """Return the path of ethtool on the host under ``root``: udev wants it absolute."""
    for place in _PLACES:
        target = os.path.join(root, place.lstrip("/"), "ethtool")
        if os.path.isfile(target) and os.access(target, os.X_OK):
            return f"{place}/ethtool"
    return None


def check(specs: list[FileSpec], runner: Runner, root: str = "/") -> None:
    """Have udev read the rules before they become visible, where its version can.

    Raises :class:`KtlsError`: ``udev_missing``, ``udev_rule_rejected``, and ``write_failed`` when the directory cannot
    be written to.
    """
    texts = [wanted for wanted in specs if wanted.content is not None]
    if not texts:
        return
    _refuse_unwritable(root)
    version = _version(runner)
    if version is not None and version < _VERIFY_SINCE:
        return
    run_directory = os.path.join(root, "run")
    try:
        with tempfile.TemporaryDirectory(prefix="ktls-udev-", dir=run_directory) as directory:
            for wanted in texts:
                target = os.path.join(directory, os.path.basename(wanted.path))
                with open(target, "wb") as stream:
                    stream.write(wanted.content or b"")
                result = runner.run(("udevadm", "verify", target))
                if result.rc != 0:
                    message = f"udev does not take the rule {wanted.path} ({result.reason}); nothing was changed"
                    raise KtlsError("udev_rule_rejected", f"{message}: use persistent: false and report this")
    except OSError as error:
        message = f"cannot write below {run_directory} ({error.strerror}); nothing was changed: free space there"
        raise KtlsError("write_failed", message) from error


def reload(runner: Runner) -> None:
    """Have udev read its rules again.

    Raises :class:`KtlsError` ``udev_reload_failed``.
    """
    result = runner.run(("udevadm", "control", "--reload"))
    if result.rc != 0:
        message = f"udevadm control --reload failed ({result.reason}); start systemd-udevd, or use persistent: false"
        raise KtlsError("udev_reload_failed", message)


def _version(runner: Runner) -> int | None:
    """Return the version of udev; None when it does not say a number."""
    try:
        said = runner.run(("udevadm", "--version")).stdout.split()
    except KtlsError as error:
        if error.code != "command_missing":
            raise
        message = "there is no udevadm, so nothing would set the feature again after a reboot"
        raise KtlsError("udev_missing", f"{message}; install package udev, or use persistent: false") from error
    number = re.match(r"\d+", said[0]) if said else None
    return int(number[0]) if number else None


def _refuse_unwritable(root: str) -> None:
    """Find a read-only file system before anything else is changed; access(2) says so to root, too."""
    directory = os.path.join(root, DIRECTORY.lstrip("/"))
    while not os.path.isdir(directory):
        directory = os.path.dirname(directory)
    if not os.access(directory, os.W_OK):
        message = f"cannot write to {directory}; nothing was changed: mount it writable, run as root, and repeat"
        raise KtlsError("write_failed", message)
