# SPDX-License-Identifier: Apache-2.0
"""Whether the process that drives a run is alive: it holds the fleet's lock."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_PROC_LOCKS = Path("/proc/locks")


@dataclass(frozen=True)
class Holder:
    """Who holds the lock of a fleet.

    :param alive: somebody holds it now; None: this system does not tell.
    :param said: what the holder, the last one if none is alive, wrote of itself.
    """

    alive: bool | None
    said: dict[str, Any]

    @property
    def name(self) -> str:
        """Operator, process and machine, as far as they are known."""
        who = self.said.get("operator") or self.said.get("by")
        pid = self.said.get("pid")
        return " ".join(str(part) for part in (who, f"(pid {pid})" if pid else None) if part) or "unknown"


def look(lock: Path, proc_locks: Path = _PROC_LOCKS) -> Holder:
    """Look at a lock file without touching the lock: trying to take it could make a starting engine fail."""
    try:
        found = os.stat(lock)
    except OSError:
        return Holder(False, {})
    try:
        said = json.loads(lock.read_text())
    except (OSError, ValueError):
        said = None
    # proc_locks(5): device as major:minor in hexadecimal, inode in decimal.
    wanted = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    try:
        fields = [line.split() for line in proc_locks.read_text().splitlines()]
        # A line with "->" waits for the lock.
        alive: bool | None = any(wanted in row and "FLOCK" in row and "->" not in row for row in fields)
    except OSError:
        alive = None
    return Holder(alive, said if isinstance(said, dict) else {})
