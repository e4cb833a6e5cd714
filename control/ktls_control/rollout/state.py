# SPDX-License-Identifier: Apache-2.0
"""Where a rollout stands, folded from its journal. Pure: every view and every resume reads the same state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

#: Of a host: waiting, ordering, soaking, judged, confirmed, reverted, failed, unreachable.
#: Of a wave: waiting, ordering, soaking, judged, held, confirming, promoted, reverting, reverted.
#: Of a run: running, completed, failed, aborted, off.

#: By whom an off is asked for when plaintext was seen on the wire.
SENTINEL = "sentinel"


@dataclass
class HostState:
    """One host; ``info`` is the last thing to say about it.

    :param lost: since when it has not answered; None: it did when it was last asked.
    :param lease_until: when it reverts by itself, on the control node's clock, as it last said; None: no lease runs.
    :param holds: it was not reached on the way back, and keeps what it was ordered: ``yes`` or ``unknown``.
    """

    state: str = "waiting"
    since: float = 0.0
    info: str = ""
    seen: dict[str, Any] = field(default_factory=dict)
    lost: float | None = None
    lease_until: float | None = None
    holds: str | None = None


@dataclass
class WaveState:
    """One wave; ``waiting`` says what it waits for (``approval``, ``paused``, ``inconclusive``, ``freeze``).

    :param held_from: what it did before it waited, and does again when it has.
    :param sentinel: of phase ``hw``: ``sight`` and ``why``, and ``at``, as they were said last; empty: not asked yet.
    :param interim: what the judge said last while the wave soaks; None before, and when there is a verdict.
    """

    number: int
    name: str
    hosts: dict[str, HostState]
    state: str = "waiting"
    since: float = 0.0
    attempt: int = 0
    order_id: str = ""
    waiting: str | None = None
    held_from: str = ""
    soak_started: float | None = None
    soak: tuple[float, float] = (0.0, 0.0)
    lease_s: float = 0.0
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    sentinel: dict[str, Any] = field(default_factory=dict)
    interim: dict[str, Any] | None = None


@dataclass
class RunState:
    """One run.

    :param owes_off: a sentinel saw plaintext, and the whole fleet is not switched off yet: why.
    :param fleet_off: the event of that, once it is done.
    """

    run: str = ""
    fleet: str = ""
    phase: str = ""
    epoch: int = 0
    plan_sha256: str = ""
    operator: str = ""
    started: float = 0.0
    ended: float | None = None
    outcome: str = "running"
    why: str = ""
    paused: bool = False
    aborting: str | None = None
    waves: list[WaveState] = field(default_factory=list)
    #: Every host that counts against the failure budget, with why; a new attempt at its wave gives it another chance.
    failed: dict[str, str] = field(default_factory=dict)
    events: int = 0
    last: float = 0.0
    owes_off: str | None = None
    fleet_off: dict[str, Any] | None = None
    #: What the phase is on these hosts, where that is not what its name says; and hosts by datapath.
    means: str = ""
    datapaths: dict[str, int] = field(default_factory=dict)

    @property
    def shown_phase(self) -> str:
        """The phase as people have to read it: ``tx+rx`` where that is what it means."""
        return self.means or self.phase

    def wave(self, number: int) -> WaveState:
        """The wave of that number."""
        return next(wave for wave in self.waves if wave.number == number)


def fold(events: Iterable[Mapping[str, Any]]) -> RunState:
    """The state after ``events``."""
    state = RunState()
    for event in events:
        apply(state, event)
    return state


def apply(state: RunState, event: Mapping[str, Any]) -> None:
    """Change ``state`` by one event."""
    at, name = float(event["at"]), str(event["event"])
    state.events += 1
    state.last = at
    handler = _HANDLERS.get(name)
    if handler:
        handler(state, event, at)


def _run_started(state: RunState, event: Mapping[str, Any], at: float) -> None:
    for key in ("run", "fleet", "phase", "epoch", "plan_sha256", "operator"):
        setattr(state, key, event[key])
    state.started = at
    state.means, state.datapaths = str(event.get("means") or ""), dict(event.get("datapaths") or {})
    state.waves = [
        WaveState(wave["number"], wave["name"], {host: HostState() for host in wave["hosts"]})
        for wave in event["waves"]
    ]


def _run_resumed(state: RunState, event: Mapping[str, Any], at: float) -> None:
    state.epoch, state.ended, state.outcome, state.why = event["epoch"], None, "running", ""


def _wave_opened(state: RunState, event: Mapping[str, Any], at: float) -> None:
    wave = state.wave(event["wave"])
    wave.state, wave.since, wave.waiting = "ordering", at, None
    wave.attempt, wave.order_id, wave.lease_s = event["attempt"], event["order_id"], event["lease_s"]
    wave.hosts = {name: HostState("ordering", at) for name in event["hosts"]}
    wave.sentinel = {}
    for name in wave.hosts:
        state.failed.pop(name, None)


def _host_told(state: RunState, event: Mapping[str, Any], at: float, well: str) -> None:
    name = event["host"]
    host = state.wave(event["wave"]).hosts[name]
    failed = "unreachable" if event.get("code") == "cut_off" else "failed"
    host.state, host.since = (well if event["ok"] else failed), at
    host.info = str(event.get("error") or "")
    if not event["ok"]:
        state.failed[name] = host.info or failed


def _host_ordered(state: RunState, event: Mapping[str, Any], at: float) -> None:
    _host_told(state, event, at, "soaking")
    wave = state.wave(event["wave"])
    host = wave.hosts[event["host"]]
    host.lost = at if host.state == "unreachable" else None
    # One that was cut off may have taken the order before.
    host.lease_until = at + wave.lease_s if wave.lease_s and host.state != "failed" else None


def _soak_started(state: RunState, event: Mapping[str, Any], at: float) -> None:
    wave = state.wave(event["wave"])
    wave.state, wave.since, wave.soak_started, wave.interim = "soaking", at, at, None
    wave.soak = (event["min_s"], event["max_s"])


def _observed(state: RunState, event: Mapping[str, Any], at: float) -> None:
    wave = state.wave(event["wave"])
    for name, seen in event["hosts"].items():
        host = wave.hosts.get(name)
        if host is None:
            continue
        host.seen = {**seen, "at": at}
        host.lost = None if seen.get("reachable", True) else (host.lost or at)
        if seen.get("lease_left_s") is not None and host.state not in ("confirmed", "reverted"):
            host.lease_until = at + float(seen["lease_left_s"])
        if seen.get("error") and host.state not in ("failed", "unreachable"):
            host.info = str(seen["error"])
    if event.get("interim"):
        wave.interim = {**event["interim"], "at": at}
    for name, why in event.get("failed", {}).items():
        host = wave.hosts[name]
        host.state, host.since, host.info = "failed", at, str(why)
        state.failed[name] = str(why)


def _sentinel(state: RunState, event: Mapping[str, Any], at: float) -> None:
    state.wave(event["wave"]).sentinel = {"sight": event["sight"], "why": event["why"], "at": at}


def _fleet_off(state: RunState, event: Mapping[str, Any], at: float) -> None:
    state.owes_off, state.fleet_off = None, dict(event)
    for wave in state.waves:
        # Of the open wave its own events tell, from the way back.
        if wave.state != "promoted":
            continue
        wave.state, wave.since = "reverted", at
        for name, host in wave.hosts.items():
            said = event["hosts"].get(name) or {"off": False, "error": "it was not among the hosts that were asked"}
            host.state, host.since = ("reverted" if said["off"] else "unreachable"), at
            host.info = str(said.get("error") or "")
            if not said["off"]:
                host.lost, host.holds = host.lost or at, "yes"


def _verdict(state: RunState, event: Mapping[str, Any], at: float) -> None:
    wave = state.wave(event["wave"])
    wave.verdicts.append({**event["verdict"], "at": at, "recheck": event["recheck"]})
    if event.get("sentinel"):
        wave.sentinel = {**event["sentinel"], "at": at}
    wave.state, wave.since, wave.interim = "judged", at, None
    for name, host in wave.hosts.items():
        why = event["verdict"].get("hosts", {}).get(name)
        if host.state in ("soaking", "judged"):
            host.state, host.since = "judged", at
            host.info = "; ".join(why) if why else str(event["outcome"])


def _waiting(state: RunState, event: Mapping[str, Any], at: float) -> None:
    wave = state.wave(event["wave"])
    if wave.state != "held":
        wave.held_from = wave.state
    wave.waiting, wave.state, wave.since = event["on"], "held", at


def _waited(state: RunState, event: Mapping[str, Any], at: float) -> None:
    wave = state.wave(event["wave"])
    wave.waiting = None
    if wave.state == "held":
        wave.state, wave.since = wave.held_from or "waiting", at


def _control(state: RunState, event: Mapping[str, Any], at: float) -> None:
    verb = event["verb"]
    if verb in ("pause", "resume"):
        state.paused = verb == "pause"
    elif verb in ("abort", "off"):
        state.aborting = str(event.get("why") or f"{verb} by {event['by']}")
    if verb == "off" and event["by"] == SENTINEL:
        state.owes_off = state.aborting


def _confirming(state: RunState, event: Mapping[str, Any], at: float) -> None:
    wave = state.wave(event["wave"])
    wave.state, wave.since = "confirming", at


def _host_confirmed(state: RunState, event: Mapping[str, Any], at: float) -> None:
    _host_told(state, event, at, "confirmed")
    if event["ok"]:
        host = state.wave(event["wave"]).hosts[event["host"]]
        host.lost, host.lease_until = None, None


def _wave_ended(state: RunState, event: Mapping[str, Any], at: float) -> None:
    wave = state.wave(event["wave"])
    wave.state, wave.since, wave.waiting = event["event"].removeprefix("wave_"), at, None


def _host_reverted(state: RunState, event: Mapping[str, Any], at: float) -> None:
    host = state.wave(event["wave"]).hosts[event["host"]]
    host.state, host.since = ("reverted" if event["ok"] else "unreachable"), at
    host.info = str(event.get("error") or event.get("failed") or "")
    if event.get("failed"):
        # Of an earlier wave: it was well when that was promoted.
        state.failed[event["host"]] = str(event["failed"])
    if event["ok"]:
        host.lost, host.lease_until = None, None
    else:
        host.lost, host.holds = host.lost or at, event.get("holds")
        host.lease_until = at + float(event["lease_left_s"]) if event.get("lease_left_s") is not None else None


def _run_ended(state: RunState, event: Mapping[str, Any], at: float) -> None:
    state.ended, state.outcome, state.why = at, event["outcome"], str(event.get("why") or "")


_HANDLERS = {
    "run_started": _run_started,
    "run_resumed": _run_resumed,
    "wave_opened": _wave_opened,
    "host_ordered": _host_ordered,
    "soak_started": _soak_started,
    "observed": _observed,
    "sentinel": _sentinel,
    "fleet_off": _fleet_off,
    "verdict": _verdict,
    "waiting": _waiting,
    "waited": _waited,
    "control": _control,
    "confirming": _confirming,
    "host_confirmed": _host_confirmed,
    "wave_promoted": _wave_ended,
    "wave_reverting": _wave_ended,
    "wave_reverted": _wave_ended,
    "host_reverted": _host_reverted,
    "run_ended": _run_ended,
}
