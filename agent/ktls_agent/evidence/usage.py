# SPDX-License-Identifier: Apache-2.0
"""CPU seconds of the serving processes.

Of a systemd unit its control group counts all that ever ran in it (``usage_usec`` of cpu.stat, cgroups(7),
Documentation/admin-guide/cgroup-v2.rst). Of a process of no unit /proc/pid/stat counts itself and the children that it
has waited for; a child that ended otherwise took its last seconds with it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from .model import ProcessUse
from .serving import Process, parse_stat

_TICKS = os.sysconf("SC_CLK_TCK")


class Usage:
    """Adds up what each process group used since it was first seen. Never goes down."""

    def __init__(self, proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> None:
        """``proc`` and ``cgroups``: where proc(5) and cgroup v2 are mounted."""
        self._proc = proc
        self._cgroups = cgroups
        self._last: dict[tuple[str, int], float] = {}
        self._used: dict[str, float] = {}

    def measure(self, processes: Iterable[Process]) -> tuple[ProcessUse, ...]:
        """Return the use of each group of ``processes`` now."""
        groups: dict[str, list[Process]] = {}
        for process in processes:
            groups.setdefault(process.name, []).append(process)
        last: dict[tuple[str, int], float] = {}
        for name, members in sorted(groups.items()):
            meters = {self._cgroup(cgroup) for cgroup in {process.cgroup for process in members} if cgroup}
            found = {meter[0]: meter[1] for meter in meters if meter is not None}
            if not found:
                found = {(str(p.pid), p.start): seconds for p in members if (seconds := self._process(p)) is not None}
            for meter, seconds in found.items():
                # A smaller number than before is a new meter: the unit was started again.
                before = self._last.get(meter, seconds)
                self._used[name] = self._used.get(name, 0.0) + (seconds - before if seconds >= before else seconds)
                last[meter] = seconds
        self._last = last
        return tuple(
            ProcessUse(name, len({process.pid for process in members}), round(self._used.get(name, 0.0), 6))
            for name, members in sorted(groups.items())
        )

    def _cgroup(self, path: str) -> tuple[tuple[str, int], float] | None:
        try:
            with open(f"{self._cgroups}{path}/cpu.stat", encoding="ascii") as stream:
                for line in stream:
                    if line.startswith("usage_usec "):
                        return (path, 0), int(line.split()[1]) / 1e6
        except (OSError, ValueError):
            pass
        return None

    def _process(self, process: Process) -> float | None:
        try:
            with open(f"{self._proc}/{process.pid}/stat", encoding="utf-8", errors="replace") as stream:
                fields = parse_stat(stream.read())
        except OSError:
            return None
        return None if fields is None or fields[4] != process.start else sum(fields[:4]) / _TICKS
