# SPDX-License-Identifier: Apache-2.0
"""What a real rollout took, part by part, read from its journal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass
class Phases:
    """One attempt of a wave; None: it did not come to that.

    :param ordering_s: until the soak began; ``soaking_s``: until the first verdict, or the end of ``min_s``,
        whichever was later the part of ``judging_s``.
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

    The soak itself is ``min_s`` where the verdict came after that: what is longer is judging, or traffic that was
    waited for, which a journal does not tell apart.
    """
    found: list[Phases] = []
    opened: dict[str, Any] | None = None
    names: dict[int, str] = {}
    began = confirming = waiting = 0.0
    min_s = 0.0
    for event in events:
        at, name = float(event["at"]), event["event"]
        if name == "run_started":
            names = {wave["number"]: wave["name"] for wave in event["waves"]}
        elif name == "wave_opened":
            opened = {**event, "at": at}
        elif name == "soak_started" and opened:
            number = event["wave"]
            found.append(Phases(number, names.get(number, str(number)), len(opened["hosts"]), at - opened["at"]))
            began, min_s = at, float(event["min_s"])
        elif not found or found[-1].number != event.get("wave"):
            continue
        elif name == "verdict":
            took = at - began - found[-1].waiting_s
            found[-1].soaking_s = min(took, min_s)
            found[-1].judging_s = max(0.0, took - min_s)
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
