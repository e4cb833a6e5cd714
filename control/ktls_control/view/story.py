# SPDX-License-Identifier: Apache-2.0
"""What a journal tells over time: who waited how long for what, when nobody drove, how long going back took. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: How a wave's time is spent. ``absent``: no process drove the rollout, from the last event to ``run_resumed``.
KINDS = (
    "ordering",
    "soaking",
    "judged",
    "approval",
    "paused",
    "inconclusive",
    "freeze",
    "confirming",
    "reverting",
    "absent",
)
#: Those that only a person ends.
BY_PERSON = frozenset(("approval", "paused", "inconclusive"))
#: An absence shorter than this is a gap between two lines, not a dead process. Seconds.
_ABSENT_S = 1.0

_STARTS = {
    "wave_opened": "ordering",
    "soak_started": "soaking",
    "confirming": "confirming",
    "wave_reverting": "reverting",
}


@dataclass(frozen=True)
class Span:
    """A stretch of a wave's time; seconds since the epoch. ``end`` None: it goes on."""

    wave: int
    kind: str
    start: float
    end: float | None


@dataclass(frozen=True)
class Point:
    """Something that happened at a moment; ``wave`` None: to the run."""

    wave: int | None
    kind: str
    at: float
    text: str


@dataclass
class Story:
    """The run over time."""

    start: float = 0.0
    end: float = 0.0
    ended: bool = False
    points: list[Point] = field(default_factory=list)
    #: Seconds that each wave took to go back, by number.
    rollbacks: dict[int, float] = field(default_factory=dict)
    _closed: list[Span] = field(default_factory=list)
    #: By wave: what it does now, since when; and what it did before it waited.
    _open: dict[int, tuple[str, float]] = field(default_factory=dict)
    _before: dict[int, str] = field(default_factory=dict)

    @property
    def spans(self) -> list[Span]:
        """All of them, by wave, then by time; those of a run under way may be without an end."""
        end = self.end if self.ended else None
        still = [Span(wave, kind, start, end) for wave, (kind, start) in self._open.items()]
        return sorted([*self._closed, *still], key=lambda span: (span.wave, span.start))

    def seconds(self, wave: int, now: float) -> dict[str, float]:
        """How long a wave spent in each kind, up to ``now``; kinds without time are left out."""
        total: dict[str, float] = {}
        for span in self.spans:
            if span.wave == wave:
                spent = (now if span.end is None else span.end) - span.start
                total[span.kind] = total.get(span.kind, 0.0) + max(0.0, spent)
        return total

    def feed(self, event: Mapping[str, Any]) -> None:
        """Take one event."""
        at, name = float(event["at"]), str(event["event"])
        self.start = self.start or at
        if name == "run_resumed":
            _resume(self, self.end, at)
        _turn(self, event, name, at)
        point = _point(event, name, at)
        if point:
            self.points.append(point)
        if name != "notified":
            # Webhooks are told of the end after it.
            self.end = max(self.end, at)
        if name in ("run_ended", "run_resumed"):
            self.ended = name == "run_ended"


def tell(events: Iterable[Mapping[str, Any]]) -> Story:
    """The story of ``events``."""
    story = Story()
    for event in events:
        story.feed(event)
    return story


def _turn(story: Story, event: Mapping[str, Any], name: str, at: float) -> None:
    """Close the span of the event's wave and open the next one, where the event says so."""
    wave = event.get("wave")
    if not isinstance(wave, int):
        return
    if name in _STARTS:
        _begin(story, wave, _STARTS[name], at)
    elif name == "verdict" and event["outcome"] != "inconclusive":
        # One that cannot tell yet lets the soak go on.
        _begin(story, wave, "judged", at)
    elif name == "waiting":
        story._before[wave] = story._open.get(wave, ("ordering", at))[0]
        _begin(story, wave, str(event["on"]), at)
    elif name == "waited":
        _begin(story, wave, story._before.pop(wave, "judged"), at)
    elif name in ("wave_promoted", "wave_reverted"):
        if name == "wave_reverted" and story._open.get(wave, ("", 0.0))[0] == "reverting":
            story.rollbacks[wave] = at - story._open[wave][1]
        _close(story, wave, at)


def _resume(story: Story, last: float, at: float) -> None:
    """What was open stood still from the last event on, unless the run had ended: nobody was to drive it then."""
    if at - last < _ABSENT_S or story.ended:
        return
    for wave, (kind, _start) in list(story._open.items()):
        _begin(story, wave, "absent", last)
        _begin(story, wave, kind, at)
    story.points.append(Point(None, "absent", last, "the controller stopped"))


def _begin(story: Story, wave: int, kind: str, at: float) -> None:
    if story._open.get(wave, ("", 0.0))[0] == kind:
        return
    _close(story, wave, at)
    story._open[wave] = (kind, at)


def _close(story: Story, wave: int, at: float) -> None:
    kind, start = story._open.pop(wave, ("", 0.0))
    if kind and at > start:
        story._closed.append(Span(wave, kind, start, at))


def _point(event: Mapping[str, Any], name: str, at: float) -> Point | None:
    wave = event.get("wave")
    if name == "control":
        why = f": {event['why']}" if event.get("why") else ""
        return Point(None, str(event["verb"]), at, f"{event['verb']} by {event['by']}{why}")
    if name == "verdict":
        reasons = event["verdict"].get("reasons") or ()
        return Point(wave, str(event["outcome"]), at, "; ".join((str(event["outcome"]), *reasons)))
    if name in ("wave_promoted", "wave_reverted"):
        return Point(wave, name.removeprefix("wave_"), at, str(event.get("why") or name.removeprefix("wave_")))
    if name == "run_resumed":
        return Point(None, "resumed", at, f"resumed by {event['operator']}")
    if name == "run_ended":
        return Point(None, "ended", at, f"{event['outcome']}{': ' + event['why'] if event.get('why') else ''}")
    return None
