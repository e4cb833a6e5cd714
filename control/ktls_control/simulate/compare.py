# SPDX-License-Identifier: Apache-2.0
"""What the simulation would have said of a rollout that was run: predicted and real durations side by side. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import ControlError
from ..plan.model import Plan
from .pace import Pace
from .phases import read

#: Predicted and real seconds of a part of a wave; None: the wave did not come to it.
Pair = tuple[float, float | None]


@dataclass(frozen=True)
class WaveComparison:
    """One wave. Parts that did not come to pass count on neither side of the sums."""

    number: int
    name: str
    hosts: int
    ordering: Pair
    soaking: Pair
    judging: Pair
    confirming: Pair

    @property
    def _parts(self) -> tuple[Pair, ...]:
        return (self.ordering, self.soaking, self.judging, self.confirming)

    @property
    def predicted_s(self) -> float:
        """What the simulation says of the parts that came to pass."""
        return sum(predicted for predicted, real in self._parts if real is not None)

    @property
    def real_s(self) -> float:
        """What they took."""
        return sum(real for _, real in self._parts if real is not None)

    @property
    def off_by(self) -> float:
        """Share by which the prediction was too long (positive) or too short."""
        return self.predicted_s / self.real_s - 1 if self.real_s else 0.0


@dataclass(frozen=True)
class Comparison:
    """A whole rollout, waiting for people left out."""

    waves: tuple[WaveComparison, ...]

    @property
    def predicted_s(self) -> float:
        """Sum over the waves."""
        return sum(wave.predicted_s for wave in self.waves)

    @property
    def real_s(self) -> float:
        """Sum over the waves."""
        return sum(wave.real_s for wave in self.waves)

    @property
    def off_by(self) -> float:
        """As of a wave."""
        return self.predicted_s / self.real_s - 1 if self.real_s else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for ``--json``; seconds."""
        own = ("predicted_s", "real_s", "off_by")
        return {
            "schema": 1,
            **{name: getattr(self, name) for name in own},
            "waves": [{**asdict(wave), **{name: getattr(wave, name) for name in own}} for wave in self.waves],
        }


def compare(plan: Plan, events: Iterable[Mapping[str, Any]], pace: Pace) -> Comparison:
    """Set the prediction of ``plan`` at ``pace`` beside the journal ``events`` of a run of it.

    Hosts of each wave are those of the journal: a wave that was tried again counts once for each attempt.

    :raises ControlError: ``other_plan`` when the journal is of another plan, ``no_waves`` when no wave was soaked.
    """
    events = list(events)
    started = next((event for event in events if event["event"] == "run_started"), None)
    if started is None or (plan.sha256 and started["plan_sha256"] != plan.sha256):
        raise ControlError("other_plan", f"the journal is not one of plan {plan.id}: name the plan that it came from")
    soaks = {wave.number: wave.soak for wave in plan.waves}
    found = [
        WaveComparison(
            wave.number,
            wave.name,
            wave.hosts,
            (pace.ordering_s(wave.hosts), wave.ordering_s),
            (soaks[wave.number].min_s, wave.soaking_s),
            (pace.judging_s(wave.hosts), wave.judging_s),
            (pace.confirming_s(wave.hosts), wave.confirming_s),
        )
        for wave in read(events)
        if wave.number in soaks
    ]
    if not found:
        raise ControlError(
            "no_waves", f"no wave of plan {plan.id} came to its soak in that journal: nothing to compare"
        )
    return Comparison(tuple(found))
