# SPDX-License-Identifier: Apache-2.0
"""How many CPUs a host has, and how much of them is in use. Source: proc_stat(5)."""

from __future__ import annotations

import os
import time
from typing import Any, Callable

from . import textfile

_STAT = "/proc/stat"
#: Long enough for a tick of 10 ms to be no more than 4 %, on one CPU; short beside the rest of the probe.
_LOOK_S = 0.25
# user nice system idle iowait irq softirq steal; guest time is part of user and nice already.
_COUNTED = 8
_IDLE = (3, 4)


def probe(root: str = "/", wait: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """Return ``online`` (CPUs) and ``busy`` (share in use over a quarter of a second); None is not known."""
    first = _times(textfile.read(root, _STAT))
    online = _online(textfile.read(root, _STAT)) or (os.cpu_count() if root == "/" else None)
    if first is None:
        return {"online": online, "busy": None}
    wait(_LOOK_S)
    return {"online": online, "busy": busy(first, _times(textfile.read(root, _STAT)))}


def busy(first: list[int], last: list[int] | None) -> float | None:
    """Return the share of CPU time that was not idle between two readings; None when no time has passed."""
    if last is None:
        return None
    moved = [after - before for before, after in zip(first, last)]
    total = sum(moved)
    # iowait may go backwards (proc_stat(5)).
    if total <= 0:
        return None
    idle = sum(moved[place] for place in _IDLE)
    return round(min(1.0, max(0.0, 1.0 - idle / total)), 4)


def _times(text: str | None) -> list[int] | None:
    for line in (text or "").splitlines():
        words = line.split()
        if words[:1] == ["cpu"]:
            try:
                found = [int(word) for word in words[1 : 1 + _COUNTED]]
            except ValueError:
                return None
            return found if len(found) > max(_IDLE) else None
    return None


def _online(text: str | None) -> int:
    """A line ``cpuN`` for each CPU that is online."""
    return sum(line[:3] == "cpu" and line[3:4].isdigit() for line in (text or "").splitlines())
