# SPDX-License-Identifier: Apache-2.0
"""What a real rollout took, part by part, read from its journal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Phases:
    """One attempt of a wave; None: it did not come to that.

    :param ordering_s: until the soak began; ``soaking_s``: until the last look at hosts that soak, and ``min_s`` at
        least; ``judging_s``: from there to the verdict that counted.
    :param waiting_s: for people, pauses and freezes, not part of the others.
    """

    number: int
    name: str
    hosts: int
    ordering_s: float
    soaking_s: float | None = None
    judging_s: float | None = None
    confirming_s: float | None = None
    waiting_s: float = 0.0
    promoted: bool = False

    @property
    def total_s(self) -> float:
        """All of it but the waiting for people."""
        return self.ordering_s + (self.soaking_s or 0.0) + (self.judging_s or 0.0) + (self.confirming_s or 0.0)


def read(events: Iterable[Mapping[str, Any]]) -> list[Phases]:
    """The waves of a journal that got as far as their soak, in order.

    The last look before a verdict is the evidence itself, so that the soak was over by the one before it.
    """
    found: list[Phases] = []
    opened: dict[str, Any] | None = None
    names: dict[int, str] = {}
    began = confirming = waiting = min_s = 0.0
    looks: list[float] = []
    for event in events:
        at, name = float(event["at"]), event["event"]
        if name == "run_started":
            names = {wave["number"]: wave["name"] for wave in event["waves"]}
        elif name == "wave_opened":
            opened = {**event, "at": at}
        elif name == "soak_started" and opened:
            number = event["wave"]
            found.append(Phases(number, names.get(number, str(number)), len(opened["hosts"]), at - opened["at"]))
            began, min_s, looks = at, float(event["min_s"]), []
        elif not found or found[-1].number != event.get("wave"):
            continue
        elif name == "observed" and not event.get("interim"):
            looks.append(at - began - found[-1].waiting_s)
        elif name == "verdict":
            took = at - began - found[-1].waiting_s
            found[-1].soaking_s = min(took, max([min_s, *looks[-2:-1]]))
            found[-1].judging_s = took - found[-1].soaking_s
        elif name == "waiting":
            waiting = at
        elif name == "waited" and waiting:
            found[-1].waiting_s += at - waiting
            waiting = 0.0
        elif name == "confirming":
            confirming = at
        elif name == "wave_promoted" and confirming:
            found[-1].confirming_s, found[-1].promoted = at - confirming, True
            confirming = 0.0
    return found
