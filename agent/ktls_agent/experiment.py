# SPDX-License-Identifier: Apache-2.0
"""What an experiment does when: which part of new connections takes the ordered phase. Pure.

``switchback``: blocks of the phase and of userspace, two and two; which of a pair comes first is drawn from the seed,
so that nobody, and no rhythm of the traffic, can be in step with it. ``connections``: each connection draws.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict, dataclass
from typing import Any

METHODS = ("switchback", "connections")
KEYS = ("method", "block_s", "washout_s", "seed")
BLOCK_MIN_S, BLOCK_MAX_S = 5.0, 3600.0
SEED_MAX = 2**53  # the largest integer that every JSON reader keeps exact (RFC 8259 section 6)
HALF = 0.5


@dataclass(frozen=True)
class Experiment:
    """``block_s``: length of a block; ``washout_s``: how much of its start counts for nothing, both in seconds."""

    method: str
    block_s: float
    washout_s: float
    seed: int

    @classmethod
    def parse(cls, raw: object) -> Experiment:
        """Check ``raw``. Raises ValueError, which says what is wrong and what to use."""
        if not isinstance(raw, dict) or set(raw) != set(KEYS):
            raise ValueError(f"use an object with {', '.join(KEYS)}, and nothing else")
        method, block_s, washout_s, seed = (raw[key] for key in KEYS)
        if not isinstance(method, str) or method not in METHODS:
            raise ValueError(f"method: use one of {', '.join(METHODS)}")
        if not _is_number(block_s) or not BLOCK_MIN_S <= block_s <= BLOCK_MAX_S:
            raise ValueError(f"block_s: use {BLOCK_MIN_S:g} to {BLOCK_MAX_S:g} seconds")
        if not _is_number(washout_s) or not 0 <= washout_s < block_s:
            raise ValueError("washout_s: use seconds from 0 to less than block_s")
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= SEED_MAX:
            raise ValueError(f"seed: use an integer from 0 to {SEED_MAX}")
        return cls(method, float(block_s), float(washout_s), seed)

    def as_dict(self) -> dict[str, Any]:
        """Return the wire form."""
        return asdict(self)

    def block(self, elapsed_s: float) -> int:
        """Return the number of the block that is on ``elapsed_s`` after the start, from 0."""
        return max(0, int(elapsed_s // self.block_s)) if self.method == "switchback" else 0

    def share(self, block: int) -> float:
        """Return the part of new connections that takes the phase in ``block``."""
        if self.method != "switchback":
            return HALF
        first_on = hashlib.sha256(f"{self.seed}:{block // 2}".encode("ascii")).digest()[0] & 1
        return float(first_on == (block % 2 == 0))

    def left_s(self, elapsed_s: float) -> float | None:
        """Return the seconds until the next block; None when there is none."""
        return (self.block(elapsed_s) + 1) * self.block_s - elapsed_s if self.method == "switchback" else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
