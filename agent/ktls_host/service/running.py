# SPDX-License-Identifier: Apache-2.0
"""By which configuration the processes of a unit run: the one on disk, or one from before.

A library reads its file when a process starts, and systemd gives the environment then: so the environment that a
process was started with tells (/proc/pid/environ, proc_pid_environ(5)). Programs that set their title overwrite it;
there the time of the start against that of the last change has to do.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .. import processes, textfile
from ..policy import services

_SYSTEMD = ("systemd-executor", "systemd")
_INTACT = "INVOCATION_ID"  # in the environment of each process that systemd starts (systemd.exec(5))


@dataclass(frozen=True)
class Process:
    """``started`` is in seconds since boot. ``environment`` is ``None`` when the program has overwritten it."""

    pid: int
    started: float
    program: str
    libraries: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] | None = None

    @property
    def starting(self) -> bool:
        """True while it is systemd's own, which will become the program (systemd.service(5), Type=simple)."""
        return self.program.rpartition("/")[2] in _SYSTEMD


def scan(unit: str, root: str = "/") -> tuple[Process, ...]:
    """Return the processes of ``unit``, the oldest first. Needs root to see what others have mapped."""
    found = []
    try:
        pids = [int(name) for name in os.listdir(textfile.under(root, "/proc")) if name.isdigit()]
    except OSError:
        return ()
    for pid in pids:
        if processes.parse_cgroup(textfile.read(root, f"/proc/{pid}/cgroup") or "") != unit:
            continue
        started = services.parse_start(textfile.read(root, f"/proc/{pid}/stat") or "")
        if started is not None:
            maps = processes.parse_maps(textfile.read(root, f"/proc/{pid}/maps") or "")
            environment = parse_environment(textfile.read(root, f"/proc/{pid}/environ") or "")
            found.append(Process(pid, started, _program(root, pid), maps, environment))
    return tuple(sorted(found, key=lambda process: (process.started, process.pid)))


def parse_environment(text: str) -> tuple[tuple[str, str], ...] | None:
    """Return the variables of a /proc/pid/environ, or ``None`` when it is not what systemd gave."""
    pairs = tuple((name, value) for name, _, value in (word.partition("=") for word in text.split("\0") if word))
    return pairs if _INTACT in dict(pairs) else None


def by_ours(process: Process, variable: str, value: str, there: bool, changed_at: float) -> bool | None:
    """Return whether ``process`` was started with ``variable=value``, which is ours; ``None``: it cannot be told. Pure.

    ``there``: our configuration is on disk; ``changed_at``: since when, in seconds since boot (``-inf``: since before).
    """
    if process.environment is not None:
        return dict(process.environment).get(variable) == value
    if changed_at == float("inf"):
        return None  # a change was interrupted
    if process.started >= changed_at:
        return there
    # It is older than the last change, and that was to or from ours.
    return not there


@dataclass(frozen=True)
class Runs:
    """The processes of a unit, sorted by the configuration that they were started with."""

    ours: tuple[Process, ...] = ()
    others: tuple[Process, ...] = ()
    unknown: tuple[Process, ...] = ()

    @property
    def running(self) -> bool:
        """True when there is any process."""
        return bool(self.ours or self.others or self.unknown)

    def stale(self, there: bool) -> tuple[Process, ...]:
        """Return those that run by another configuration than the one on disk, or may."""
        return (*(self.others if there else self.ours), *self.unknown)

    def all_ours(self, main_pid: int) -> bool:
        """True when whoever takes new connections was started with ours: the main process, where it is known."""
        main = [process for process in self.ours if process.pid == main_pid]
        return bool(main) if main_pid else bool(self.ours) and not (self.others or self.unknown)


def sort(found: Iterable[Process], variable: str, value: str, there: bool, changed_at: float) -> Runs:
    """Sort processes by what :func:`by_ours` says. Pure."""
    kinds: dict[bool | None, list[Process]] = {True: [], False: [], None: []}
    for process in found:
        kinds[by_ours(process, variable, value, there, changed_at)].append(process)
    return Runs(tuple(kinds[True]), tuple(kinds[False]), tuple(kinds[None]))


def main_program(found: Sequence[Process], main_pid: int) -> Process | None:
    """Return the main process, or the oldest where systemd names none; ``None`` when nothing runs."""
    return next((process for process in found if process.pid == main_pid), found[0] if found else None)


def libraries(found: Iterable[Process]) -> tuple[str, ...]:
    """Return the TLS libraries that any of the processes has mapped, sorted."""
    return tuple(sorted({library for process in found for library in process.libraries}))


def _program(root: str, pid: int) -> str:
    try:
        return os.readlink(textfile.under(root, f"/proc/{pid}/exe")).removesuffix(" (deleted)")
    except OSError:
        return (textfile.read(root, f"/proc/{pid}/comm") or "unknown").strip()
