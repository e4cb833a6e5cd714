# SPDX-License-Identifier: Apache-2.0
"""Which running programs use a TLS library, and which systemd unit each belongs to."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from . import textfile

_LIBRARIES = {"libssl.so": "openssl", "libgnutls.so": "gnutls"}
_UNIT = re.compile(r"([^/]+\.service)(?=/|\Z)")


@dataclass(frozen=True)
class TlsProcess:
    """``unit`` is ``None`` for a process of no service. ``program`` is the executable's path, or its name."""

    pid: int
    program: str
    unit: str | None
    libraries: tuple[str, ...]


def probe(root: str = "/") -> tuple[TlsProcess, ...]:
    """Return the processes that map libssl or libgnutls, by pid. Those of others are hidden from all but root."""
    return tuple(_found(root))


def parse_maps(text: str) -> tuple[str, ...]:
    """Return ``openssl`` and ``gnutls`` as far as a /proc/pid/maps names their libraries (proc_pid_maps(5))."""
    found = set()
    for line in text.splitlines():
        name = line.rpartition("/")[2]
        for prefix, library in _LIBRARIES.items():
            if name.startswith(prefix):
                found.add(library)
    return tuple(sorted(found))


def parse_cgroup(text: str) -> str | None:
    """Return the systemd service of a /proc/pid/cgroup, the innermost one (cgroups(7), systemd.unit(5))."""
    for line in text.splitlines():
        fields = line.split(":", 2)
        if len(fields) == 3 and (fields[1] in ("", "name=systemd")):
            units = _UNIT.findall(fields[2])
            if units:
                return str(units[-1])
    return None


def _found(root: str) -> Iterator[TlsProcess]:
    try:
        pids = sorted(int(name) for name in os.listdir(textfile.under(root, "/proc")) if name.isdigit())
    except OSError:
        return
    for pid in pids:
        libraries = parse_maps(textfile.read(root, f"/proc/{pid}/maps") or "")
        if libraries and pid != os.getpid():
            unit = parse_cgroup(textfile.read(root, f"/proc/{pid}/cgroup") or "")
            yield TlsProcess(pid, _program(root, pid), unit, libraries)


def _program(root: str, pid: int) -> str:
    try:
        return os.readlink(textfile.under(root, f"/proc/{pid}/exe")).removesuffix(" (deleted)")
    except OSError:
        return (textfile.read(root, f"/proc/{pid}/comm") or "unknown").strip()
