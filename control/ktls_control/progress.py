# SPDX-License-Identifier: Apache-2.0
"""What the events of a rollout's journal mean: waves, hosts and their states. Pure; drawing is done elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["waiting", "ordering", "soaking", "judged", "confirmed", "reverted", "failed", "unreachable"]
Event = Mapping[str, Any]

_WAITS: Mapping[str, str] = {
    "approval": "waits for approval: `ktls promote` or `ktls abort`",
    "inconclusive": "waits, the gate cannot tell: `ktls promote` or `ktls abort`",
    "paused": "is paused: `ktls resume` or `ktls abort`",
    "freeze": "waits for the end of a freeze",
}


@dataclass
class HostProgress:
    """Where one host of a wave stands."""

    state: State = "waiting"
    since: float = 0.0
    info: str = ""


@dataclass
class Wave:
    """One wave, in the order of the rollout.

    :param note: what it does or waits for, for people.
    """

    number: int
    started: float
    hosts: dict[str, HostProgress] = field(default_factory=dict)
    ended: float | None = None
    note: str = ""

    @property
    def outcome(self) -> Literal["running", "passed", "failed"]:
        """``passed`` when every host is confirmed."""
        states = {host.state for host in self.hosts.values()}
        if states == {"confirmed"}:
            return "passed"
        return "failed" if states & {"reverted", "failed", "unreachable"} else "running"


@dataclass
class RolloutProgress:
    """Fed with events, it knows the state of the rollout."""

    phase: str
    waves: list[Wave] = field(default_factory=list)
    verdicts: dict[str, dict[str, Any]] = field(default_factory=dict)
    epoch: int | None = None
    outcome: str | None = None
    why: str = ""

    def feed(self, event: Event) -> list[str]:
        """Take one event; returns lines worth saying aloud (none for most)."""
        handler = _HANDLERS.get(str(event["event"]))
        return handler(self, event) if handler else []

    def _started(self, event: Event) -> list[str]:
        self.epoch, self.phase, self.outcome = event["epoch"], event.get("means") or event["phase"], None
        return []

    def _resumed(self, event: Event) -> list[str]:
        self.epoch, self.outcome = event["epoch"], None
        return [f"resumed by {event['operator']}, epoch {event['epoch']}"]

    def _opened(self, event: Event) -> list[str]:
        moment, names = float(event["at"]), list(event["hosts"])
        self.waves = [wave for wave in self.waves if wave.number != event["wave"]]
        hosts = {name: HostProgress("ordering", moment) for name in names}
        self.waves.append(Wave(event["wave"], moment, hosts, note="ordering"))
        return [f"wave {event['wave']} {self.phase}: {', '.join(names)}"]

    def _ordered(self, event: Event) -> list[str]:
        return self._host(event, "soaking", [])

    def _confirmed(self, event: Event) -> list[str]:
        return self._host(event, "confirmed", [f"{event['host']} confirmed"])

    def _host(self, event: Event, well: State, said: list[str]) -> list[str]:
        if not event["ok"]:
            return self._fail(event, str(event["host"]), str(event.get("error") or ""), event.get("code") == "cut_off")
        host = self._of(event).hosts[event["host"]]
        host.state, host.since = well, float(event["at"])
        return said

    def _fail(self, event: Event, name: str, why: str, lost: bool = False) -> list[str]:
        host = self._of(event).hosts[name]
        if host.state in ("failed", "unreachable"):
            return []
        host.state, host.since = "unreachable" if lost else "failed", float(event["at"])
        host.info = " ".join(why.split()).removeprefix(f"{name}: ").removeprefix(f"{name} ")
        return [f"{name} {host.state}: {host.info}"]

    def _soaking(self, event: Event) -> list[str]:
        wave = self._of(event)
        wave.note = f"soaking, {event['min_s']:g} to {event['max_s']:g} s"
        return [f"wave {wave.number} {wave.note}"]

    def _observed(self, event: Event) -> list[str]:
        wave, said = self._of(event), []
        for name, seen in event["hosts"].items():
            if seen.get("sent") is not None:
                kept = {key: value for key, value in self.verdicts.get(name, {}).items() if key not in _RESTS}
                self.verdicts[name] = {**kept, **_judged(seen)}
            host = wave.hosts.get(name)
            if host and host.state in ("soaking", "judged"):
                host.info = str(seen.get("error") or _numbers(self.verdicts.get(name, {})))
        if event.get("interim"):
            wave.note = f"{wave.note.partition('; so far')[0]}; so far {event['interim']['outcome']}"
        for name, why in event.get("failed", {}).items():
            said += self._fail(event, name, str(why))
        return said

    def _verdict(self, event: Event) -> list[str]:
        wave, verdict, said = self._of(event), event["verdict"], []
        for name, host in wave.hosts.items():
            wrong = (verdict.get("hosts") or {}).get(name)
            outcome = event["outcome"] if wrong else "pass"
            self.verdicts[name] = {"share": None, "bytes_total": 0, **self.verdicts.get(name, {}), "outcome": outcome}
            if host.state not in ("soaking", "judged"):
                continue
            if wrong and event["outcome"] == "fail":
                said += self._fail(event, name, "; ".join(wrong))
                continue
            host.state, host.since = "judged", float(event["at"])
            host.info = "; ".join(wrong) if wrong else _numbers(self.verdicts[name])
            said.append(f"{name} {host.info if wrong else f'gate pass: {host.info}'}")
        wave.note = f"gate {event['outcome']}"
        return [*said, *(f"{name} of an earlier wave: {why}" for name, why in (event.get("recheck") or {}).items())]

    def _waiting(self, event: Event) -> list[str]:
        wave = self._of(event)
        wave.note = _WAITS.get(event["on"], str(event["on"]))
        return [f"wave {event['wave']} {wave.note}"]

    def _waited(self, event: Event) -> list[str]:
        by = event.get("by")
        self._of(event).note = "goes on"
        return [f"wave {event['wave']} goes on{f': {by}' if by else ''}"]

    def _control(self, event: Event) -> list[str]:
        return [f"{event['verb']} by {event['by']}" + (f": {event['why']}" if event.get("why") else "")]

    def _confirming(self, event: Event) -> list[str]:
        self._of(event).note = "confirming"
        return []

    def _promoted(self, event: Event) -> list[str]:
        wave = self._of(event)
        wave.ended, wave.note = float(event["at"]), ""
        return [f"wave {wave.number} passed"]

    def _reverting(self, event: Event) -> list[str]:
        wave = self._of(event)
        wave.note = f"going back: {event['why']}"
        return [f"wave {wave.number} failed: {event['why']}"]

    def _host_reverted(self, event: Event) -> list[str]:
        name = str(event["host"])
        if not event["ok"]:
            left = event.get("lease_left_s")
            host = self._of(event).hosts[name]
            host.state, host.since = "unreachable", float(event["at"])
            if event.get("holds") == "yes":
                host.info = "not reached; confirmed before: it holds until ktls off reaches it"
            else:
                host.info = "not reached; its lease takes it back" + (f" in {left:.0f} s" if left is not None else "")
                host.info += ", unless its confirmation arrived" if event.get("holds") else ""
            return [f"{name} {host.info}"]
        host = self._of(event).hosts[name]
        host.state, host.since = "reverted", float(event["at"])
        return [f"{name} back on userspace TLS"]

    def _wave_reverted(self, event: Event) -> list[str]:
        wave = self._of(event)
        wave.ended, wave.note = float(event["at"]), f"went back: {event['why']}"
        return []

    def _ended(self, event: Event) -> list[str]:
        self.outcome, self.why = str(event["outcome"]), str(event.get("why") or "")
        return []

    def _of(self, event: Event) -> Wave:
        """The wave of an event; one that only waits to be opened is there from then on."""
        for wave in self.waves:
            if wave.number == event["wave"]:
                return wave
        self.waves.append(Wave(event["wave"], float(event["at"])))
        return self.waves[-1]


_HANDLERS: Mapping[str, Callable[[RolloutProgress, Event], list[str]]] = {
    "run_started": RolloutProgress._started,
    "run_resumed": RolloutProgress._resumed,
    "wave_opened": RolloutProgress._opened,
    "host_ordered": RolloutProgress._ordered,
    "soak_started": RolloutProgress._soaking,
    "observed": RolloutProgress._observed,
    "verdict": RolloutProgress._verdict,
    "waiting": RolloutProgress._waiting,
    "waited": RolloutProgress._waited,
    "control": RolloutProgress._control,
    "confirming": RolloutProgress._confirming,
    "host_confirmed": RolloutProgress._confirmed,
    "wave_promoted": RolloutProgress._promoted,
    "wave_reverting": RolloutProgress._reverting,
    "host_reverted": RolloutProgress._host_reverted,
    "wave_reverted": RolloutProgress._wave_reverted,
    "run_ended": RolloutProgress._ended,
}


#: What a look says only if there is some.
_RESTS = ("presumed", "unattributed")


def _judged(seen: Mapping[str, Any]) -> dict[str, Any]:
    found = {"share": seen.get("share"), "bytes_total": seen.get("sent") or 0}
    return {**found, **{key: seen[key] for key in _RESTS if seen.get(key)}}


def _numbers(gate: Mapping[str, Any]) -> str:
    share = gate.get("share")
    percent = "no traffic" if share is None else f"{int(share * 10000) / 100:.2f} % of bytes"
    presumed = gate.get("presumed") or 0
    rests = f"; {presumed / 1e6:.1f} MB on the host presumed, of its own clients" if presumed else ""
    lost = gate.get("unattributed") or 0
    rests += f"; {lost / 1e6:.1f} MB nobody could attribute" if lost else ""
    return f"{percent}, {gate.get('bytes_total', 0) / 1e6:.1f} MB judged{rests}"
