# SPDX-License-Identifier: Apache-2.0
"""What a host looks like where kTLS touches it: files with mode, owner and hash, the module, network cards.

Of what may hold a secret (``/etc/ktls/tls``) nothing is read: size and time stand for the content.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .. import textfile
from ..commands import Runner
from ..nic import drivers
from ..nic import probe as nic_probe

PLACES = (
    "/etc/ktls", "/etc/ktls/**", "/etc/ktls-fleet", "/etc/ktls-fleet/**", "/etc/modules-load.d/*", "/etc/modprobe.d/*",
    "/etc/udev/rules.d/*", "/etc/ssl/openssl.cnf", "/etc/pki/tls/openssl.cnf", "/etc/gnutls/config",
    "/etc/crypto-policies/**", "/etc/systemd/system/*ktls*", "/etc/systemd/system/*.d/*ktls*", "/etc/tmpfiles.d/*ktls*",
    "/etc/sysusers.d/*ktls*", "/usr/local/sbin/ktls-off", "/usr/local/bin/ktls-agent", "/var/lib/ktls-levers",
    "/var/lib/ktls-levers/**", "/run/ktls/off", "/run/ktls/stuck", "/var/lib/ktls/off", "/var/lib/ktls/lease",
    "/var/lib/ktls/intent.json",
)  # fmt: skip
# Not the mark /run/ktls/lapsed: a sidecar that is slow to answer leaves it, in userspace, until the next order.
_SECRET = "/etc/ktls/tls/"
_HASH_LIMIT = 8 << 20
_MOST = 5000

Snapshot = dict[str, str]
"""What is looked at, by name, to what it is, as text that can be shown."""


def take(root: str = "/", runner: Runner | None = None, places: Sequence[str] = ()) -> Snapshot:
    """Look at everything, and at ``places`` besides.

    Raises OSError for a file that cannot be read, and :class:`KtlsError` of ethtool.
    """
    found = dict(files(root, places))
    found["module tls"] = "loaded" if os.path.isdir(os.path.join(root, "sys/module/tls")) else "not loaded"
    found.update(cards(root, runner))
    return found


def files(root: str = "/", places: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Yield path and description of everything in :data:`PLACES` and ``places``, at most some thousands."""
    paths = {path for place in (*PLACES, *places) for path in glob.iglob(textfile.under(root, place), recursive=True)}
    for path in sorted(paths)[:_MOST]:
        name = "/" + os.path.relpath(path, root)
        try:
            yield name.rstrip("/"), describe(path, name)
        except FileNotFoundError:
            continue  # it went away while we looked: as if it had not been there


def describe(path: str, name: str) -> str:
    """Return type, mode, owner and content of one file."""
    found = os.lstat(path)
    owner = f"{stat.S_IMODE(found.st_mode):04o} {found.st_uid}:{found.st_gid}"
    if stat.S_ISLNK(found.st_mode):
        return f"link {owner} to {os.readlink(path)}"
    if stat.S_ISDIR(found.st_mode):
        return f"directory {owner}"
    if not stat.S_ISREG(found.st_mode):
        return f"special {owner}"
    if name.startswith(_SECRET) or found.st_size > _HASH_LIMIT:
        return f"file {owner} of {found.st_size} bytes, {found.st_mtime_ns} ns"
    with open(path, "rb") as stream:
        return f"file {owner} sha256 {hashlib.sha256(stream.read()).hexdigest()}"


def cards(root: str = "/", runner: Runner | None = None) -> Snapshot:
    """Return the TLS features of each network card that has them."""
    names = tuple(drivers.FEATURES.values())
    return {
        f"{nic.name} {name}": nic.features[name].words
        for nic in nic_probe.probe(root, runner)
        for name in names
        if name in nic.features
    }


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a line for everything that is not as it was. Pure."""
    absent = "absent"
    return tuple(
        f"{name}: was {before.get(name, absent)}, is {after.get(name, absent)}"
        for name in sorted({*before, *after})
        if before.get(name, absent) != after.get(name, absent)
    )
