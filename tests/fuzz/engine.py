# SPDX-License-Identifier: Apache-2.0
"""Feed a function with inputs for a while; keep those that reach new lines, return those that break it, made small."""

from __future__ import annotations

import hashlib
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from .mutate import mutate

Target = Callable[[bytes], None]
_TRACED = 8
"""One input in so many is traced: tracing is slow."""
_POOL_LIMIT = 4000
_MINIMISE_S = 5.0


@dataclass
class Crasher:
    """An input that broke the target, as small as it could be made, and how it did."""

    data: bytes
    error: str

    @property
    def name(self) -> str:
        """A file name that the same input always gets."""
        return hashlib.sha256(self.data).hexdigest()[:16] + ".bin"


@dataclass
class Result:
    """What a run did."""

    seed: int
    runs: int = 0
    lines: int = 0
    pool: int = 0
    crashers: list[Crasher] = field(default_factory=list)

    def __str__(self) -> str:
        """One line for people."""
        return (
            f"seed {self.seed}: {self.runs} inputs, {self.lines} lines reached, {self.pool} inputs kept,"
            f" {len(self.crashers)} crashers"
        )


class Coverage:
    """Which lines of the files whose path holds one of ``parts`` were run."""

    def __init__(self, parts: Sequence[str]) -> None:
        """Choose the files."""
        self._parts = tuple(parts)
        self._wanted: dict[CodeType, bool] = {}
        self.lines: set[tuple[str, int]] = set()

    def run(self, target: Target, data: bytes) -> bool:
        """Run ``target``; True when it reached a line that no input had reached. Exceptions pass."""
        before = len(self.lines)
        outer = sys.gettrace()
        sys.settrace(self._call)
        try:
            target(data)
        finally:
            sys.settrace(outer)
        return len(self.lines) > before

    def _call(self, frame: FrameType, event: str, _argument: Any) -> Any:
        code = frame.f_code
        wanted = self._wanted.get(code)
        if wanted is None:
            wanted = self._wanted[code] = any(part in code.co_filename for part in self._parts)
        return self._line if wanted else None

    def _line(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "line":
            self.lines.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line


def failure(target: Target, data: bytes) -> str | None:
    """Return how ``data`` breaks ``target``: the exception's type and where it came from; None when it does not."""
    try:
        target(data)
    except Exception as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        where = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace is not None else "?"
        return f"{type(error).__name__} at {where}"
    return None


def minimise(target: Target, data: bytes, seconds: float = _MINIMISE_S) -> bytes:
    """Cut out of ``data`` whatever is not needed to break ``target`` in the same way."""
    wanted = failure(target, data)
    end = time.monotonic() + seconds
    size = max(1, len(data) // 2)
    while time.monotonic() < end:
        at, shorter = 0, False
        while at < len(data) and time.monotonic() < end:
            candidate = data[:at] + data[at + size :]
            if failure(target, candidate) == wanted:
                data, shorter = candidate, True
            else:
                at += size
        if size == 1 and not shorter:
            break
        size = max(1, size // 2)
    return data


def fuzz(target: Target, seeds: Sequence[bytes], traced: Sequence[str], seconds: float, seed: int) -> Result:
    """Run for ``seconds``. Different ways to break are kept once each."""
    rng = random.Random(seed)
    result = Result(seed)
    coverage = Coverage(traced)
    pool = list(seeds)
    known: set[str] = set()
    end = time.monotonic() + seconds

    def attempt(data: bytes, trace: bool) -> None:
        result.runs += 1
        try:
            if not trace:
                target(data)
            elif coverage.run(target, data) and len(pool) < _POOL_LIMIT:
                pool.append(data)
        except Exception as error:
            how = failure(target, data) or f"{type(error).__name__}, not every time"
            if how not in known:
                known.add(how)
                result.crashers.append(Crasher(minimise(target, data), f"{how}: {error}"[:500]))

    for data in seeds:
        attempt(data, True)
    while time.monotonic() < end:
        # What was found last is the most interesting.
        source = pool[-1 - min(int(rng.expovariate(0.02)), len(pool) - 1)] if rng.random() < 0.5 else rng.choice(pool)
        attempt(mutate(source, pool, rng), result.runs % _TRACED == 0)
    result.lines, result.pool = len(coverage.lines), len(pool)
    return result
