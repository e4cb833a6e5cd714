# SPDX-License-Identifier: Apache-2.0
"""Which running services still work by an older configuration: both libraries read theirs when a process starts.

The environment of a process does not tell: programs that set their title overwrite it (nginx, PostgreSQL). So each
change leaves a note in /run, in seconds since boot like the start of a process, which no clock can move.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

from .. import files, originals, processes, textfile
from ..errors import KtlsError

DIRECTORY = "/run/ktls-levers"
_PENDING = "pending"
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """``started`` is in seconds since boot. ``libraries`` holds ``openssl`` and ``gnutls``."""

    pid: int
    unit: str
    started: float
    libraries: tuple[str, ...] = ()


def scan(root: str = "/") -> tuple[Process, ...]:
    """Return the processes that belong to a systemd service. Needs root to see what others have mapped."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir(textfile.under(root, "/proc")):
            if not name.isdigit():
                continue
            unit = processes.parse_cgroup(textfile.read(root, f"/proc/{name}/cgroup") or "")
            started = parse_start(textfile.read(root, f"/proc/{name}/stat") or "")
            if unit is not None and started is not None:
                libraries = processes.parse_maps(textfile.read(root, f"/proc/{name}/maps") or "")
                found.append(Process(int(name), unit, started, libraries))
    return tuple(sorted(found, key=lambda process: process.pid))


def parse_start(text: str) -> float | None:
    """Return when a process started, from /proc/pid/stat: field 22, in clock ticks since boot (proc_pid_stat(5))."""
    # The second field is a name in brackets, which may hold anything.
    fields = text.rpartition(")")[2].split()
    if len(fields) < 20 or not fields[19].isdigit():
        return None
    return int(fields[19]) / _TICKS


def users(found: Iterable[Process], backend: str, own: frozenset[int] = frozenset()) -> frozenset[str]:
    """Return the services that have mapped the library; the processes ``own`` do not count. Pure."""
    return frozenset(process.unit for process in found if backend in process.libraries and process.pid not in own)


def own_line(root: str = "/") -> frozenset[int]:
    """Return this process and those it descends from: who logs in to run us is no user of the library."""
    line: set[int] = set()
    pid = os.getpid()
    while pid > 1 and pid not in line:
        line.add(pid)
        fields = (textfile.read(root, f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
        pid = int(fields[1]) if len(fields) > 1 and fields[1].isdigit() else 0
    return frozenset(line)


def older(found: Iterable[Process], units: Iterable[str], when: float, main: dict[str, int]) -> frozenset[str]:
    """Return those of ``units`` that have processes from before ``when``, in seconds since boot. Pure.

    ``main`` maps units to their main process. When that one is newer, the unit was restarted, and what is left of it
    from before was meant to stay (KillMode=, systemd.kill(5)).
    """
    wanted = frozenset(units)
    theirs = [process for process in found if process.unit in wanted]
    renewed = {process.unit for process in theirs if process.started >= when and main.get(process.unit) == process.pid}
    return frozenset(process.unit for process in theirs if process.started < when) - renewed


def note_before(lever: str, root: str = "/") -> str | None:
    """Say that a change of ``lever`` begins: until :func:`note_after`, all that runs may be older than it.

    Returns the note that was there, for :func:`note_again`. Raises :class:`KtlsError` ``write_failed``.
    """
    before = textfile.read(root, _path(lever))
    _note(lever, _PENDING, root)
    return before


def note_again(lever: str, note: str | None, root: str = "/") -> None:
    """Say that nothing came of it. Raises :class:`KtlsError` ``write_failed``."""
    if note is not None:
        _note(lever, note.strip(), root)
        return
    with contextlib.suppress(OSError):
        os.unlink(textfile.under(root, _path(lever)))


def note_after(lever: str, root: str = "/") -> None:
    """Say that the change is made. Takes up to one clock tick, a hundredth of a second."""
    # A start is rounded down to a tick. What started in this tick may have read what was there before; wait for the
    # next one, so that all that starts from then on is newer without a doubt.
    ticks = math.floor(_now() * _TICKS) + 1
    while (left := ticks / _TICKS - _now()) > 0:
        time.sleep(left)
    _note(lever, str(ticks / _TICKS), root)


def changed_at(lever: str, root: str = "/") -> float:
    """Return when ``lever`` last changed something, in seconds since boot.

    ``-inf`` when it did not since then; ``inf`` when it was interrupted, so that it is not known.
    """
    text = (textfile.read(root, _path(lever)) or "").strip()
    if text == _PENDING:
        return math.inf
    try:
        return float(text)
    except ValueError:
        return -math.inf


def interrupted(lever: str, root: str = "/") -> bool:
    """True when a change began and its end was not noted."""
    return changed_at(lever, root) == math.inf


def private_directory(root: str = "/") -> str:
    """Return the directory for what must not outlive this boot, made when missing, closed to everybody else.

    Raises :class:`KtlsError` ``unsafe_directory`` and ``write_failed``.
    """
    path = textfile.under(root, DIRECTORY)
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        raise KtlsError("write_failed", f"cannot make {path} ({error.strerror}); nothing was changed") from error
    if not os.path.isdir(path) or os.path.islink(path) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        message = f"{path} is not a directory that only root may write; remove it, it is made again"
        raise KtlsError("unsafe_directory", message)
    return path


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _note(lever: str, text: str, root: str) -> None:
    private_directory(root)
    files.atomic_write(textfile.under(root, _path(lever)), f"{text}\n".encode(), 0o600)


def _path(lever: str) -> str:
    name = os.path.basename(originals.record_path(lever))
    return f"{DIRECTORY}/{name.removesuffix('.json')}.changed"
