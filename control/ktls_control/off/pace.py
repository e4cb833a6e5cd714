# SPDX-License-Identifier: Apache-2.0
"""How many hosts are asked at the same time. Pure: the clock is the caller's.

Two things make an off slow, and they want the opposite. Hosts that are cut off hold a place for as long as ssh waits
for them: others should not wait behind them. A control node that is itself the bottleneck gets every answer late: it
must not ask more hosts at a time, or all of them run into their time limits together. What tells one from the other is
how long the hosts take that do answer.
"""

from __future__ import annotations

from collections import OrderedDict

#: Where the number begins; each answer allows one more, so it doubles with each round of answers.
FIRST = 16
#: Never fewer at a time.
LEAST = 8
#: Seconds until a flag is up that are no reason to ask fewer at a time: handshake, login shell, ``ktls-off``.
WELL_S = 2.0
#: Seconds that a host holds a place as long as nobody has answered: no longer than ssh waits for a peer.
_BEFORE_ANY_S = 8.0
#: After that so many times of what others take, and not less than ``WELL_S`` seconds.
_PATIENCE = 4.0
#: Weight of the newest answer in the running mean.
_NEW = 0.1


class Pace:
    """Places for hosts whose flag is not up yet.

    :param most: never more of them at a time, those that no longer hold a place left out.
    :param most_silent: never more that were asked and have not answered, in all.
    """

    def __init__(self, most: int, most_silent: int) -> None:
        self._most, self._most_silent = most, most_silent
        self._limit = float(min(FIRST, most))
        self._mean_s: float | None = None
        self._asked: OrderedDict[str, float] = OrderedDict()  # oldest first
        self._late: set[str] = set()

    @property
    def mean_s(self) -> float | None:
        """Running mean of seconds from the start of a session until the flag was up; None before the first."""
        return self._mean_s

    @property
    def hurried(self) -> bool:
        """Whether answers come so late that a host which did not answer in time may only have had no chance to."""
        return self._mean_s is not None and self._mean_s > WELL_S

    @property
    def holding(self) -> int:
        """Hosts that hold a place, as of the last :meth:`room`."""
        return len(self._asked)

    @property
    def limit(self) -> int:
        """Places at the moment."""
        if self._mean_s is None or self._mean_s <= WELL_S:
            return int(self._limit)
        return max(min(LEAST, self._most), int(self._limit * WELL_S / self._mean_s))

    def room(self, now: float) -> bool:
        """Whether one more may be asked."""
        patience = _BEFORE_ANY_S if self._mean_s is None else max(WELL_S, _PATIENCE * self._mean_s)
        while self._asked:
            name, since = next(iter(self._asked.items()))
            if now - since < patience:
                break
            del self._asked[name]
            self._late.add(name)
            if self._mean_s is None:  # nobody answers at all: it is not we who are slow, as far as is known
                self._limit = min(self._limit + 1, self._most)
        return len(self._asked) < self.limit and len(self._asked) + len(self._late) < self._most_silent

    def asked(self, name: str, now: float) -> None:
        """``name`` takes a place."""
        self._late.discard(name)
        self._asked[name] = now
        self._asked.move_to_end(name)

    def answered(self, name: str, took_s: float) -> None:
        """Its flag is up, ``took_s`` seconds after it was asked: there is its place, and one more."""
        self.gone(name)
        self._mean_s = took_s if self._mean_s is None else self._mean_s + _NEW * (took_s - self._mean_s)
        self._limit = min(self._limit + 1, self._most)

    def gone(self, name: str) -> None:
        """It answered, or never will."""
        self._asked.pop(name, None)
        self._late.discard(name)
