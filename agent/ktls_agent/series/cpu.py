# SPDX-License-Identifier: Apache-2.0
"""CPU time of the serving unit, from one small file.

Of a control group it is ``usage_usec`` of cpu.stat, all that ever ran in it (Documentation/admin-guide/cgroup-v2.rst).
Processes of no unit of their own are added up from /proc/pid/stat (proc_pid_stat(5)).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

_CGROUPS = "/sys/fs/cgroup/system.slice"
UNIT = f"{_CGROUPS}/ktls-sidecar.service"
_TICK_US = 1_000_000 // os.sysconf("SC_CLK_TCK")


def group_of(unit: str) -> str:
    """Return the control group of a service in the usual slice (systemd.slice(5))."""
    return f"{_CGROUPS}/{unit}"


def read(sidecar: Mapping[str, Any], cgroup: str = UNIT, proc: str = "/proc") -> int | None:
    """Return the microseconds that the processes of ``sidecar`` (its status) have used; None when nobody says."""
    found = _of_unit(cgroup)
    return _of_processes(sidecar, proc) if found is None else found


def _of_unit(cgroup: str) -> int | None:
    try:
        with open(f"{cgroup}/cpu.stat", encoding="ascii") as stream:
            for line in stream:
                if line.startswith("usage_usec "):
                    return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


def _of_processes(sidecar: Mapping[str, Any], proc: str) -> int | None:
    workers = sidecar.get("workers")
    pids = [sidecar.get("pid"), *(worker.get("pid") for worker in workers or () if isinstance(worker, dict))]
    total = 0
    for number, pid in enumerate(dict.fromkeys(pids)):
        used = _of_process(f"{proc}/{pid}/stat", children=number == 0) if isinstance(pid, int) else None
        if used is None:
            return None
        total += used
    return total


def _of_process(path: str, children: bool) -> int | None:
    """Return user and system time; with ``children``, that of those that have ended and were waited for too."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            fields = stream.read().rpartition(")")[2].split()
        return sum(int(ticks) for ticks in fields[11 : 15 if children else 13]) * _TICK_US
    except (OSError, ValueError, IndexError):
        return None
