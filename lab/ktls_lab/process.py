# SPDX-License-Identifier: Apache-2.0
"""Find and end the lab's own processes, never one that took over a recycled process number."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_START_TIME_FIELD = 22  # proc(5), /proc/PID/stat: "starttime", in clock ticks since boot


@dataclass(frozen=True)
class ProcessId:
    """A process, told apart from later ones with the same number by its start time (clock ticks since boot)."""

    pid: int
    start_ticks: int


def start_ticks(stat: str) -> int:
    """Return the start time in the text of /proc/PID/stat; the command name in it may contain spaces and ')'."""
    return int(stat[stat.rindex(")") + 2 :].split()[_START_TIME_FIELD - 3])


def identify(pid: int, proc: Path = Path("/proc")) -> ProcessId | None:
    """Return the identity of the running process ``pid``; None if there is none or only a zombie."""
    try:
        stat = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    if stat[stat.rindex(")") + 2] in "ZX":
        return None
    return ProcessId(pid, start_ticks(stat))


def is_alive(process: ProcessId, proc: Path = Path("/proc")) -> bool:
    """Whether this very process still runs."""
    return identify(process.pid, proc) == process


def qemu_using(directory: Path, proc: Path = Path("/proc")) -> list[ProcessId]:
    """QEMU processes that use a file below ``directory``: those of a lab, whatever its state file says."""
    marker = f"={directory}/".replace(",", ",,").encode()  # QEMU's way to write a comma inside an option
    found = []
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            program, *arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if program.rpartition(b"/")[2].startswith(b"qemu-system-") and any(marker in word for word in arguments):
                process = identify(int(entry.name), proc)
                if process is not None:
                    found.append(process)
    return found


def kill(processes: Iterable[ProcessId], timeout_s: float = 10.0) -> list[ProcessId]:
    """SIGKILL each of ``processes`` that still is the one meant, and wait until it is gone.

    A pidfd is opened before the start time is compared, so the number cannot change hands in between.

    Returns:
        Those that did not end in ``timeout_s`` each (a process stuck in the kernel).
    """
    left = []
    for process in processes:
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        try:
            if not is_alive(process):
                continue
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            readable, _, _ = select.select([descriptor], [], [], timeout_s)
            if not readable:
                left.append(process)
        finally:
            os.close(descriptor)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)  # reap it when it is our own child
    return left
