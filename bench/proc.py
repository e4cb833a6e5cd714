# SPDX-License-Identifier: Apache-2.0
"""CPU time and memory of a process and all its descendants, from proc(5)."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError

TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Stat:
    """Of /proc/PID/stat: own CPU time, and that of ended children that were waited for, in clock ticks."""

    pid: int
    parent: int
    ticks: int
    waited_ticks: int


@dataclass(frozen=True)
class Memory:
    """Resident memory in KiB. ``pss`` shares what several processes map, so that it can be added up."""

    rss: int
    pss: int


def parse_stat(text: str) -> Stat:
    """Parse a line of /proc/PID/stat (proc_pid_stat(5)); the name in it may hold spaces and parentheses."""
    pid, _, rest = text.partition(" ")
    fields = rest.rpartition(")")[2].split()
    # fields[0] is field 3 of the manual page: state, ppid, ..., utime 14, stime 15, cutime 16, cstime 17.
    return Stat(int(pid), int(fields[1]), int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14]))


def tree(root: int, stats: Iterable[Stat]) -> list[Stat]:
    """Return the stats of ``root`` and all its living descendants; empty when ``root`` is not there."""
    known = {stat.pid: stat for stat in stats}
    children: dict[int, list[int]] = {}
    for stat in known.values():
        children.setdefault(stat.parent, []).append(stat.pid)
    found, todo = [], [root] if root in known else []
    while todo:
        pid = todo.pop()
        found.append(known[pid])
        todo.extend(children.get(pid, ()))
    return found


def processes(root: int) -> list[Stat]:
    """Return ``root`` and its descendants as they are now. Raises BenchError when ``root`` has ended."""
    stats = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stats.append(parse_stat(Path("/proc", entry, "stat").read_text(encoding="ascii", errors="replace")))
            except OSError:
                continue  # it ended meanwhile
    found = tree(root, stats)
    if not found:
        raise BenchError(f"process {root} ended while it was measured; look at its log")
    return found


def cpu_seconds(root: int) -> float:
    """CPU time, user and system, that the tree of ``root`` has used so far, ended workers included."""
    return sum(stat.ticks + stat.waited_ticks for stat in processes(root)) * TICK_S


def parse_smaps_rollup(text: str) -> Memory:
    """Parse /proc/PID/smaps_rollup (proc_pid_smaps(5)). Raises ValueError: Rss or Pss is missing."""
    found = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name in ("Rss", "Pss"):
            found[name] = int(value.split()[0])
    if set(found) != {"Rss", "Pss"}:
        raise ValueError("no Rss and Pss in it")
    return Memory(found["Rss"], found["Pss"])


def memory(root: int) -> Memory:
    """Resident memory of the tree of ``root`` now. Raises BenchError: no right to read it, or ended."""
    rss = pss = 0
    for stat in processes(root):
        path = f"/proc/{stat.pid}/smaps_rollup"
        try:
            part = parse_smaps_rollup(Path(path).read_text(encoding="ascii"))
        except (OSError, ValueError) as error:
            raise BenchError(f"cannot read {path} ({error}); run as the same user or as root") from error
        rss += part.rss
        pss += part.pss
    return Memory(rss, pss)


def parse_machine_busy(text: str) -> float:
    """Seconds that all CPUs together have been busy, from the first line of /proc/stat (proc_stat(5))."""
    fields = [int(word) for word in text.split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq = fields[:7]
    return (user + nice + system + irq + softirq) * TICK_S


def machine_busy() -> float:
    """Return :func:`parse_machine_busy` of now."""
    return parse_machine_busy(Path("/proc/stat").read_text(encoding="ascii"))
