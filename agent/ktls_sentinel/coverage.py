# SPDX-License-Identifier: Apache-2.0
"""How many bytes of a TCP stream were seen on the wire, each counted once. Pure."""

from __future__ import annotations

import bisect

_WRAP = 1 << 32
_MAX_GAPS = 4096


class Coverage:
    """Ranges of one stream, by sequence number (RFC 9293): retransmitted and reordered data are no more than others.

    Streams of up to 2 GiB; the first segment that is seen is the middle of the scale.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self._base: int | None = None
        self._starts: list[int] = []
        self._ends: list[int] = []
        self.bytes = 0
        """Seen, each counted once."""

    def add(self, seq: int, length: int) -> None:
        """Note ``length`` bytes from ``seq`` on."""
        if length <= 0:
            return
        if self._base is None:
            self._base = seq
        start = (seq - self._base + _WRAP // 2) % _WRAP
        end = start + length
        # All ranges that touch the new one become one with it.
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        if first == last and len(self._starts) >= _MAX_GAPS:
            return  # a hostile stream of holes: it stays uncovered
        for begin, finish in zip(self._starts[first:last], self._ends[first:last]):
            self.bytes -= finish - begin
            start, end = min(start, begin), max(end, finish)
        self._starts[first:last], self._ends[first:last] = [start], [end]
        self.bytes += end - start
