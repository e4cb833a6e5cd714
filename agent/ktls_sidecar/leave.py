# SPDX-License-Identifier: Apache-2.0
"""How long connections may go on whose kTLS is no longer ordered. Pure.

An order of a lower mode, or a flag, is for new connections. Older ones end after the response under way, and whoever
reads slowly can make that long. So there is a deadline, after which the rest is cut.
"""

from __future__ import annotations

from typing import Final

from ktls_host.jsonsock import RequestError

from .page import HW, MODES, RX, USERSPACE

MAX_S = 86400.0
USUAL: Final = object()
"""In place of a time: what the configuration says."""


class Leave:
    """The deadline. Times are seconds, those of a moment of the monotonic clock, the same in all processes."""

    def __init__(self, usual_s: float | None) -> None:
        """``usual_s``: how long connections may go on where nothing else is ordered; None: for ever."""
        self._usual_s = usual_s
        self.until: float | None = None

    def moved(self, before: str, after: str, now: float) -> None:
        """Take note that ``after`` is the mode now: one that does not order what ``before`` did sets a deadline."""
        if is_back(before, after):
            self.begin(self._usual_s, now)

    def begin(self, seconds: float | None, now: float) -> None:
        """Set the deadline to ``seconds`` from ``now``; None: there is none."""
        self.until = None if seconds is None else now + seconds


def is_back(before: str, after: str) -> bool:
    """True when there may be connections of ``before`` that ``after`` does not order."""
    return MODES.index(after) < MODES.index(before) or (before, after) == (RX, HW)


def is_ordered(mode: str, tx: bool, rx: bool, assigned: str = "") -> bool:
    """True when a connection may be as it is under ``mode``; ``tx``, ``rx``: what the kernel does for it.

    What drew ``hw`` (``assigned``) may be in a network card, and stays there until it ends.
    """
    if mode == USERSPACE or (assigned == HW and mode != HW):
        return not (tx or rx)
    return mode == RX or not rx


def seconds_of(value: object) -> float | None:
    """Check ``drain_s`` of an order. Raises RequestError ``bad_drain``."""
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= MAX_S:
        raise RequestError("bad_drain", f"drain_s {value!r} is not a number of seconds from 0 to {MAX_S:g}, or null")
    return float(value)
