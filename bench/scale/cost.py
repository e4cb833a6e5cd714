# SPDX-License-Identifier: Apache-2.0
"""What a command costs the control node: wall time, CPU of it and of all that it starts, and memory."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError
from bench.proc import parse_smaps_rollup, processes

#: Seconds between looks at memory; a look reads one file for each process.
_LOOK_S = 1.0


@dataclass(frozen=True)
class Cost:
    """Seconds; memory in MiB, the most that all processes together held (proportional set size)."""

    wall_s: float
    cpu_s: float
    memory_mib: float
    status: int


def run(
    argv: Sequence[str],
    log: Path,
    *,
    cwd: Path,
    env: Mapping[str, str],
    timeout_s: float,
    expect: int | None = 0,
    stdin: Path | None = None,
) -> Cost:
    """Run ``argv`` to its end; its output goes to ``log``.

    CPU is that of all descendants which were waited for (getrusage(2)): nothing here starts a process that is not.

    :param expect: exit status that it has to have; None: any.
    :raises BenchError: it ended otherwise, or not in time.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.monotonic()
    with open(log, "wb") as output, open(stdin or os.devnull, "rb") as given:
        process = subprocess.Popen(
            argv, stdin=given, stdout=output, stderr=subprocess.STDOUT, cwd=cwd, env=dict(env), start_new_session=True
        )
        memory = _Memory(process.pid)
        memory.start()
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, 9)
            process.wait()
            raise BenchError(f"{argv[0]} was not done after {timeout_s:g} s; see {log}, or raise --timeout") from error
        finally:
            memory.stop()
    wall = time.monotonic() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if expect is not None and process.returncode != expect:
        lines = log.read_text(errors="replace").strip().splitlines() or ["no output"]
        raise BenchError(f"{Path(argv[0]).name} ended with status {process.returncode}: {lines[-1][:200]}; see {log}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, cpu, memory.most_kib / 1024, process.returncode)


class _Memory(threading.Thread):
    """Looks at the memory of a tree of processes until it is stopped."""

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self._root = root
        self._end = threading.Event()
        self.most_kib = 0

    def run(self) -> None:
        while not self._end.wait(_LOOK_S):
            self.most_kib = max(self.most_kib, _pss_kib(self._root))

    def stop(self) -> None:
        self._end.set()
        self.join()


def _pss_kib(root: int) -> int:
    found = 0
    with contextlib.suppress(BenchError):
        for stat in processes(root):
            # Workers come and go while they are counted.
            with contextlib.suppress(OSError, ValueError):
                text = Path(f"/proc/{stat.pid}/smaps_rollup").read_text(encoding="ascii")
                found += parse_smaps_rollup(text).pss
    return found
