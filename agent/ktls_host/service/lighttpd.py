# SPDX-License-Identifier: Apache-2.0
"""lighttpd with mod_openssl: it asks for kernel TLS by itself, and only its own configuration tells it not to.

mod_openssl sets SSL_OP_ENABLE_KTLS on each SSL_CTX (1.4.68; since 1.4.7x when the kernel has ``tls``, which it loads
when started as root), then applies ``ssl.openssl.ssl-conf-cmd``: "Options" => "-KTLS" takes it away (src/mod_openssl.c,
mod_openssl_ssl_conf_cmd). So a line of ours stands in its configuration from adoption on. It says ``-KTLS`` unless the
environment says otherwise, which only our drop-in does: whoever takes the drop-in away, by whatever means, has
userspace TLS from the next start on.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets

from .. import files, originals, textfile
from ..commands import Runner
from ..errors import KtlsError
from ..files import FileSpec
from ..policy import services, units

VARIABLE = "KTLS_FLEET_LIGHTTPD"
VALUE = "KTLS"
PROGRAM = "/usr/sbin/lighttpd"
CONFIG = "/etc/lighttpd/lighttpd.conf"
#: Read by Debian's lighttpd.conf, in the order of their names.
DIRECTORY = "/etc/lighttpd/conf-enabled"
FRAGMENT = f"{DIRECTORY}/zz-ktls-fleet.conf"
_HEADER = "# Written by ktls-fleet (datapath service): kernel TLS from the next start on\n"
_LINE = f'include_shell "echo \'ssl.openssl.ssl-conf-cmd += (\\"Options\\" => \\"\'${{{VARIABLE}:--KTLS}}\'\\")\'"\n'
TEXT = (
    "# Written by ktls-fleet (ktls_service). Kernel TLS only while ktls-fleet's drop-in of the unit asks for it;\n"
    "# without this line lighttpd always does.\n" + _LINE
)


def fragment_lever(unit: str) -> str:
    """Return the name of the record of what was there before the line in lighttpd's configuration."""
    return f"service:lighttpd:{unit}:line"


def lever(unit: str) -> str:
    """Return the name of the record of the drop-in."""
    return f"service:lighttpd:{unit}"


def drop_in(unit: str) -> str:
    """Return the path of the drop-in."""
    return units.drop_in_path(unit, "lighttpd")


def drop_in_spec(unit: str) -> FileSpec:
    """Return the drop-in that asks for kernel TLS."""
    return FileSpec(drop_in(unit), f"{_HEADER}{units.drop_in_text(VARIABLE, VALUE)}".encode())


def adopted(root: str = "/") -> bool:
    """True when our line is in lighttpd's configuration."""
    return textfile.read(root, FRAGMENT) == TEXT


def adopt(unit: str, runner: Runner, root: str = "/", check_only: bool = False) -> bool:
    """Put our line into lighttpd's configuration, after lighttpd has taken it in a trial. Call it under the lock.

    The line counts from the next start on. Returns whether that changed anything. Raises :class:`KtlsError`:
    ``lighttpd_layout``, ``validation_failed``, and those of the records.
    """
    if not os.path.isdir(textfile.under(root, DIRECTORY)):
        message = f"there is no {DIRECTORY}, which Debian's lighttpd.conf reads; other layouts are not supported"
        raise KtlsError("lighttpd_layout", message)
    plan = originals.plan(fragment_lever(unit), [FileSpec(FRAGMENT, TEXT.encode())], root=root)
    if not plan.changes:
        return False
    _try(runner, root)
    if not check_only:
        before = services.note_before(fragment_lever(unit), root)
        originals.commit(plan)
        try:
            read_back(runner)
        except KtlsError:
            restoration = originals.plan_restore(fragment_lever(unit), root)
            originals.restore_files(restoration)
            originals.forget(restoration)
            services.note_again(fragment_lever(unit), before, root)
            raise
        services.note_after(fragment_lever(unit), root)
    return True


def release(unit: str, root: str = "/", check_only: bool = False) -> bool:
    """Take our line out again. Returns whether that changed anything. Call it under the lock.

    Raises :class:`KtlsError` ``edited_meanwhile`` and those of the records.
    """
    restoration = originals.plan_restore(fragment_lever(unit), root)
    if restoration.record is None:
        return False
    restoration.refuse_edited()
    if not check_only:
        originals.restore_files(restoration)
        originals.forget(restoration)
    return True


def read_back(runner: Runner) -> None:
    """Let lighttpd read its configuration with our line in it, both ways. Raises KtlsError ``validation_failed``."""
    for value in ("-KTLS", VALUE):
        shown = runner.run(["env", f"{VARIABLE}={value}", PROGRAM, "-p", "-f", CONFIG])
        if shown.rc or not says(shown.stdout, value):
            why = shown.reason if shown.rc else "its global ssl.openssl.ssl-conf-cmd does not have our Options"
            raise _failed(why)


def says(printed: str, value: str) -> bool:
    """True when ``lighttpd -p`` shows ``Options`` of ``value`` in the ``ssl-conf-cmd`` outside of conditions. Pure."""
    wanted = re.compile(rf'"Options"\s*=>\s*"{re.escape(value)}"')  # names are padded to one width
    inside = False
    for line in printed.splitlines():
        if line.startswith("    ssl.openssl.ssl-conf-cmd"):
            inside = True
        if inside and wanted.search(line):
            return True
        if inside and line.rstrip().endswith(")") and not line.startswith("        "):
            inside = False
    return False


def elsewhere(printed: str) -> bool:
    """True when ``lighttpd -p`` shows an ``ssl-conf-cmd`` inside a condition, where ours does not count. Pure."""
    return any("ssl.openssl.ssl-conf-cmd" in line and line.startswith("     ") for line in printed.splitlines())


def _try(runner: Runner, root: str) -> None:
    """Read lighttpd's configuration and our line, in a private file, in a lighttpd that serves nobody."""
    path = os.path.join(services.private_directory(root), secrets.token_hex(8) + ".candidate")
    try:
        files.atomic_write(path, f'include "{CONFIG}"\n{_LINE}'.encode(), 0o600)
        for value in ("-KTLS", VALUE):
            tried = runner.run(["env", f"{VARIABLE}={value}", PROGRAM, "-tt", "-f", path])
            if tried.rc:
                raise _failed(_reason(tried.stderr) or tried.reason)
        shown = runner.run(["env", "-u", VARIABLE, PROGRAM, "-p", "-f", path])
        if shown.rc or not says(shown.stdout, "-KTLS"):
            raise _failed("its global ssl.openssl.ssl-conf-cmd would not have our Options")
        if elsewhere(shown.stdout):
            raise _failed("a condition in it sets ssl.openssl.ssl-conf-cmd for itself, where ours would not count")
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _reason(stderr: str) -> str | None:
    if "Duplicate array-key" in stderr:
        return (
            "it sets Options in ssl.openssl.ssl-conf-cmd itself, and lighttpd takes that word once; take it out there"
        )
    return None


def _failed(why: str) -> KtlsError:
    message = f"lighttpd would not follow with {FRAGMENT} ({why}); nothing was changed, see 'lighttpd -tt -f {CONFIG}'"
    return KtlsError("validation_failed", message)
