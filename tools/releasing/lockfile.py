# SPDX-License-Identifier: Apache-2.0
"""Read a lock file (``tools/lock``): packages, hashes, and who wants them. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from packaging.markers import Marker

_PIN = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)(?:\s*;\s*(.*?))?\s*\\?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})\b")
_VIA = re.compile(r"^\s+#\s+(?:via\s+)?(?!via$)([A-Za-z0-9][A-Za-z0-9._-]*)(?:\s+\(.*\))?$")
#: What a control node may be: Linux, and a Python that pyproject.toml and ansible-core allow.
_PYTHONS = ("3.11.0", "3.12.0", "3.13.0")


@dataclass(frozen=True)
class Locked:
    """One version of one package. ``wanted_by`` are the names that stand behind ``via``; the project among them."""

    name: str
    version: str
    marker: str | None
    hashes: tuple[str, ...]
    wanted_by: tuple[str, ...]

    @property
    def on_linux(self) -> bool:
        """Whether it is ever installed on a control node."""
        if self.marker is None:
            return True
        marker = Marker(self.marker)
        machine = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
        pythons = ({"python_full_version": full, "python_version": full.rpartition(".")[0]} for full in _PYTHONS)
        return any(marker.evaluate({**machine, **python}) for python in pythons)


class LockError(ValueError):
    """A line that says what to install and does not pin it by hash."""


def parse(text: str) -> tuple[Locked, ...]:
    """Return every package. Raises :class:`LockError` for anything that is not pinned with a hash."""
    found: list[Locked] = []
    block: list[str] = []
    for line in [*text.splitlines(), "end"]:
        if line and not line[0].isspace() and not line.startswith("#"):
            if block:
                found.append(_entry(block))
            block = [line]
        elif block:
            block.append(line)
    return tuple(found)


def _entry(block: list[str]) -> Locked:
    pinned = _PIN.match(block[0].strip())
    hashes = tuple(match for line in block[1:] for match in _HASH.findall(line))
    if pinned is None or not hashes:
        raise LockError(f"{block[0].strip()}: not one version with its hashes")
    names = (_VIA.match(line) for line in block[1:])
    wanted_by = tuple(sorted({match[1] for match in names if match}))
    return Locked(pinned[1], pinned[2], pinned[3], hashes, wanted_by)
