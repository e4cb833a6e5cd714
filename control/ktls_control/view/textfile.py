# SPDX-License-Identifier: Apache-2.0
"""A rollout as Prometheus metrics, in a file for node_exporter's textfile collector.

Metrics of one fleet are in one file, ``ktls_rollout_FLEET.prom``: a new run takes the place of the one before.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import write
from ..plan import datapaths
from ..plan.model import Plan
from ..rollout.state import RunState, apply
from . import cards, standing
from .story import Story

HOST_STATES = ("waiting", "ordering", "soaking", "judged", "confirmed", "reverted", "failed", "unreachable")
RUN_STATES = ("running", "waiting", "frozen", "completed", "failed", "aborted", "off")
OUTCOMES = ("pass", "fail", "inconclusive")
#: Events of single hosts come by the thousand, and are in what follows them.
_QUIET = frozenset(("host_ordered", "host_confirmed", "host_reverted", "notified"))
_KINDS = ("running", "person", "freeze", "absent")
_PERSON = ("approval", "paused", "inconclusive")

#: name: (type, help). All are gauges: a new run begins anew.
CATALOGUE: Mapping[str, tuple[str, str]] = {
    "ktls_rollout_info": ("gauge", "Always 1; which rollout the other series are about."),
    "ktls_rollout_state": ("gauge", "1 for the state that the rollout is in, 0 for the others."),
    "ktls_rollout_epoch": ("gauge", "Epoch of the rollout's orders."),
    "ktls_rollout_started_timestamp_seconds": ("gauge", "When the rollout began."),
    "ktls_rollout_ended_timestamp_seconds": ("gauge", "When the rollout ended; not there while it runs."),
    "ktls_rollout_last_event_timestamp_seconds": ("gauge", "When the last event was written to the journal."),
    "ktls_rollout_waves": ("gauge", "Waves of the plan."),
    "ktls_rollout_waves_promoted": ("gauge", "Waves that passed and were confirmed."),
    "ktls_rollout_wave": ("gauge", "Number of the wave that something happens to, or happened to last."),
    "ktls_rollout_hosts": ("gauge", "Hosts of the plan by state."),
    "ktls_rollout_datapath_hosts": (
        "gauge",
        "Hosts of the plan by what serves them and what the phase is there, tx+rx where tx is both.",
    ),
    "ktls_rollout_failure_budget": ("gauge", "Hosts that may fail before the rollout ends."),
    "ktls_rollout_verdict": (
        "gauge",
        '1 for the outcome of the last gate, 0 for the others; metric="" is the wave\'s.',
    ),
    "ktls_rollout_effect_ratio": ("gauge", "Change that the last gate saw, 0.03 is 3 % worse; low and high: interval."),
    "ktls_rollout_margin_ratio": ("gauge", "Harm that the gate accepts."),
    "ktls_rollout_e_value": ("gauge", "E-value of the error test at the last look."),
    "ktls_rollout_sentinel": (
        "gauge",
        "Phase hw: 1 for what the sentinels said last of the wave, 0 for the others; none: nobody watches.",
    ),
    "ktls_rollout_card_ratio": (
        "gauge",
        "Phase hw: bytes that a card counted by those that its connections sent, of the host with least.",
    ),
    "ktls_rollout_card_bytes": ("gauge", "Phase hw: bytes that the cards of the wave have encrypted since the order."),
    "ktls_rollout_fallback_ratio": (
        "gauge",
        "Phase hw: transmit sessions in software by all, of the host with most.",
    ),
    "ktls_rollout_stale_connections": ("gauge", "Phase hw: connections called hw for which no card works."),
    "ktls_rollout_lease_left_seconds": ("gauge", "Least time until a host of the wave reverts by itself."),
    "ktls_rollout_wave_duration_seconds": (
        "gauge",
        "Time spent on a wave: running, waiting for a person or a freeze to end, absent (no controller).",
    ),
    "ktls_rollout_rollback_seconds": ("gauge", "How long the wave took to go back."),
}


@dataclass(frozen=True)
class _Row:
    name: str
    labels: Mapping[str, str]
    value: float


class RolloutMetrics:
    """Fed with the events of a run, it keeps its file up to date.

    :param directory: node_exporter's ``--collector.textfile.directory``.
    """

    def __init__(self, directory: Path, plan: Plan | None = None) -> None:
        self._directory = directory
        self._plan = plan
        self.state = RunState()
        self.story = Story()
        self.error: str | None = None

    def feed(self, event: Mapping[str, Any], *, old: bool = False) -> None:
        """Take one event and write the file. A file that cannot be written stops nothing; ``error`` then says why.

        :param old: it was written before a resume: the file is left until something new comes.
        """
        apply(self.state, event)
        self.story.feed(event)
        if not old and event["event"] not in _QUIET:
            self.write(float(event["at"]))

    def write(self, now: float) -> None:
        """Write the file, whole or not at all."""
        try:
            path = self._directory / file_name(self.state.fleet)
            write(path, render(self.state, self.story, self._plan, now))
            # node_exporter runs as a user of its own.
            path.chmod(0o644)
            self.error = None
        except OSError as error:
            self.error = f"{self._directory}: metrics of the rollout cannot be written ({error.strerror})"


def file_name(fleet: str) -> str:
    """Name of a fleet's file; only what ends in ``.prom`` is read by node_exporter."""
    return f"ktls_rollout_{re.sub(r'[^A-Za-z0-9_.-]', '-', fleet) or 'unknown'}.prom"


def render(state: RunState, story: Story, plan: Plan | None, now: float) -> str:
    """The text exposition of a run."""
    rows: dict[str, list[_Row]] = {}
    for row in _rows(state, story, plan, now):
        rows.setdefault(row.name, []).append(row)
    lines = []
    for name, (kind, what) in CATALOGUE.items():
        if name not in rows:
            continue
        lines += [f"# HELP {name} {_escape(what, quotes=False)}", f"# TYPE {name} {kind}"]
        for row in rows[name]:
            labels = {"fleet": state.fleet, **row.labels}
            told = ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items())
            lines.append(f"{name}{{{told}}} {_number(row.value)}")
    return "\n".join(lines) + "\n"


def _rows(state: RunState, story: Story, plan: Plan | None, now: float) -> Iterable[_Row]:
    info = {
        "run": state.run,
        "phase": state.phase,
        "plan": state.plan_sha256[:12],
        "operator": state.operator,
    }
    yield _Row("ktls_rollout_info", info, 1)
    wave = standing.current(state)
    now_in = state.outcome
    if state.ended is None and wave is not None and wave.waiting == "freeze" and not state.paused:
        now_in = "frozen"
    elif standing.exit_code(state, False) == standing.WAITING:
        now_in = "waiting"
    for name in RUN_STATES:
        yield _Row("ktls_rollout_state", {"state": name}, name == now_in)
    yield _Row("ktls_rollout_epoch", {}, state.epoch)
    yield _Row("ktls_rollout_started_timestamp_seconds", {}, state.started)
    if state.ended is not None:
        yield _Row("ktls_rollout_ended_timestamp_seconds", {}, state.ended)
    yield _Row("ktls_rollout_last_event_timestamp_seconds", {}, state.last)
    yield _Row("ktls_rollout_waves", {}, len(state.waves))
    yield _Row("ktls_rollout_waves_promoted", {}, sum(one.state == "promoted" for one in state.waves))
    counted = standing.counted(state)
    for name in HOST_STATES:
        yield _Row("ktls_rollout_hosts", {"state": name}, counted.get(name, 0))
    if plan is not None:
        yield _Row("ktls_rollout_failure_budget", {}, plan.failure_budget)
        for (kind, means), count in _datapaths(state, plan):
            yield _Row("ktls_rollout_datapath_hosts", {"datapath": kind, "means": means}, count)
    if wave is not None:
        yield _Row("ktls_rollout_wave", {}, wave.number)
        lease = standing.shortest_lease(wave, now)
        if lease is not None and state.ended is None:
            yield _Row("ktls_rollout_lease_left_seconds", {}, lease)
    yield from _judged(state)
    yield from _cards(state)
    for one in state.waves:
        labels = {"wave": str(one.number)}
        if one.state != "waiting":
            total = dict.fromkeys(_KINDS, 0.0)
            for kind, seconds in story.seconds(one.number, now).items():
                total["person" if kind in _PERSON else kind if kind in _KINDS else "running"] += seconds
            for kind, seconds in total.items():
                yield _Row("ktls_rollout_wave_duration_seconds", {**labels, "kind": kind}, seconds)
        if one.number in story.rollbacks:
            yield _Row("ktls_rollout_rollback_seconds", labels, story.rollbacks[one.number])


def _datapaths(state: RunState, plan: Plan) -> Iterable[tuple[tuple[str, str], int]]:
    each = ((host.datapath.kind, datapaths.phase_of(plan, name, state.phase)) for name, host in plan.hosts.items())
    yield from sorted(Counter(each).items())


def _cards(state: RunState) -> Iterable[_Row]:
    for wave in state.waves:
        labels = {"wave": str(wave.number)}
        if wave.sentinel:
            for sight in cards.SIGHTS:
                yield _Row("ktls_rollout_sentinel", {**labels, "sight": sight}, wave.sentinel.get("sight") == sight)
        found = cards.summary(wave)
        if found is None:
            continue
        yield _Row("ktls_rollout_card_bytes", labels, found.encrypted)
        yield _Row("ktls_rollout_stale_connections", labels, found.stale)
        if found.least is not None:
            yield _Row("ktls_rollout_card_ratio", labels, found.least)
        if found.fallback is not None:
            yield _Row("ktls_rollout_fallback_ratio", labels, found.fallback)


def _judged(state: RunState) -> Iterable[_Row]:
    """The last verdict of each wave that has one."""
    for wave in state.waves:
        labels = {"wave": str(wave.number)}
        newest = wave.interim or (wave.verdicts[-1] if wave.verdicts else {})
        if newest.get("e_value") is not None:
            yield _Row("ktls_rollout_e_value", labels, float(newest["e_value"]))
        if not wave.verdicts:
            continue
        verdict = wave.verdicts[-1]
        metrics = list(verdict.get("metrics") or ())
        for name, outcome in [("", verdict["outcome"]), *((one["name"], one["outcome"]) for one in metrics)]:
            for possible in OUTCOMES:
                value = possible == outcome
                yield _Row("ktls_rollout_verdict", {**labels, "metric": name, "outcome": possible}, value)
        for one in metrics:
            of = {**labels, "metric": one["name"]}
            for bound, key in (("estimate", "effect"), ("low", "low"), ("high", "high")):
                if one.get(key) is not None:
                    yield _Row("ktls_rollout_effect_ratio", {**of, "bound": bound}, float(one[key]))
            yield _Row("ktls_rollout_margin_ratio", of, float(one["margin"]))


def _escape(value: str, *, quotes: bool = True) -> str:
    value = value.replace("\\", "\\\\").replace("\n", "\\n")
    return value.replace('"', '\\"') if quotes else value


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("+Inf" if value > 0 else "-Inf")
    return str(int(value)) if float(value).is_integer() else repr(round(float(value), 6))
