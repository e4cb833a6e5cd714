# SPDX-License-Identifier: Apache-2.0
"""The last samples, in columns of machine integers: 64 bytes each, and a little for those with errors or probes."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ARMS = ("off", "on", "mixed")
COLUMNS = ("at_ms", "ms", "arm", "washout", "cpu_us", "sent", "ktls", "connections", "requests")
_NONE = -1  # what is not known; all values are counts


@dataclass(frozen=True)
class Sample:
    """One interval; counts are of it alone, None where they are not known.

    ``at_ms``: its end, CLOCK_BOOTTIME in milliseconds; ``ms``: its length. ``arm``: what new connections got during it,
    one of :data:`ARMS`. ``washout``: it touches the washout of a block. ``cpu_us``: CPU time of the serving processes,
    in microseconds. ``errors``: failures by kind. ``probe_s``: how long each self-probe took.
    """

    at_ms: int
    ms: int
    arm: str = "off"
    washout: bool = False
    cpu_us: int | None = None
    sent: int | None = None
    ktls: int | None = None
    connections: int | None = None
    requests: int | None = None
    errors: Mapping[str, int] | None = None
    probe_s: tuple[float, ...] = ()


@dataclass
class Ring:
    """Keeps the newest ``size`` samples."""

    size: int
    _columns: dict[str, array[int]] = field(default_factory=lambda: {name: array("q") for name in COLUMNS})
    _errors: dict[int, dict[str, int] | None] = field(default_factory=dict)  # by at_ms; no entry: there were none
    _probes: dict[int, tuple[float, ...]] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many samples there are."""
        return min(self.size, len(self._columns["at_ms"]))

    def add(self, sample: Sample) -> None:
        """Take the next sample; it ends later than all before."""
        for name in COLUMNS:
            value = getattr(sample, name)
            self._columns[name].append(_NONE if value is None else ARMS.index(value) if name == "arm" else int(value))
        if sample.errors is None or sample.errors:
            self._errors[sample.at_ms] = None if sample.errors is None else dict(sample.errors)
        if sample.probe_s:
            self._probes[sample.at_ms] = sample.probe_s
        if len(self._columns["at_ms"]) >= self.size + max(16, self.size // 8):  # seldom, so that it costs nothing
            self._drop(len(self._columns["at_ms"]) - self.size)

    def page(self, after_ms: int, most: int) -> dict[str, Any]:
        """Return the oldest ``most`` samples that end after ``after_ms``, as columns of plain JSON.

        ``errors`` and ``probe_s`` are by index into the columns, as text; an index without errors had none.
        """
        times = self._columns["at_ms"]
        first = bisect_right(times, after_ms, lo=len(times) - len(self))
        chosen = range(first, min(len(times), first + most))
        columns: dict[str, Any] = {
            name: [None if value == _NONE else value for value in self._columns[name][chosen.start : chosen.stop]]
            for name in COLUMNS
        }
        by_index = [(str(index - first), times[index]) for index in chosen]
        columns["errors"] = {index: self._errors[at] for index, at in by_index if at in self._errors}
        columns["probe_s"] = {index: list(self._probes[at]) for index, at in by_index if at in self._probes}
        return columns

    @property
    def last_ms(self) -> int | None:
        """The end of the newest sample."""
        times = self._columns["at_ms"]
        return times[-1] if times else None

    def _drop(self, count: int) -> None:
        for at in self._columns["at_ms"][:count]:
            self._errors.pop(at, None)
            self._probes.pop(at, None)
        for column in self._columns.values():
            del column[:count]
