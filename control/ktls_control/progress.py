# SPDX-License-Identifier: Apache-2.0
"""What the events of a rollout mean: waves, hosts and their states. Pure; drawing is done elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["waiting", "ordering", "soaking", "judged", "confirmed", "reverted", "failed", "unreachable"]

_WAVE_PLAY = "Rollout | Wave"
_STARTS: Mapping[str, State] = {"Wave | Order": "ordering", "Wave | Soak and judge": "soaking"}


@dataclass
class HostProgress:
    """Where one host of a wave stands."""

    state: State = "waiting"
    since: float = 0.0
    info: str = ""


@dataclass
class Wave:
    """One wave, in the order of the rollout."""

    number: int
    started: float
    hosts: dict[str, HostProgress] = field(default_factory=dict)
    ended: float | None = None

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

    def feed(self, event: Mapping[str, Any]) -> list[str]:
        """Take one event; returns lines worth saying aloud (none for most)."""
        if event["event"] == "play":
            return self._play(event)
        if event.get("play") != _WAVE_PLAY or not self.waves:
            return []
        wave = self.waves[-1]
        host = wave.hosts.get(str(event.get("host")))
        if host is None:
            return []
        before = wave.outcome
        said = self._host(event, str(event["host"]), host)
        if wave.outcome != "running" and before == "running":
            wave.ended = float(event["time"])
            said.append(f"wave {wave.number} {wave.outcome}")
        return said

    def _play(self, event: Mapping[str, Any]) -> list[str]:
        if event["play"] != _WAVE_PLAY:
            return []
        names = list(event["hosts"])
        moment = float(event["time"])
        self.waves.append(Wave(len(self.waves) + 1, moment, {n: HostProgress(since=moment) for n in names}))
        return [f"wave {len(self.waves)} {self.phase}: {', '.join(names)}"]

    def _host(self, event: Mapping[str, Any], name: str, host: HostProgress) -> list[str]:
        kind, task = event["event"], event.get("task", "")
        moment = float(event["time"])
        if kind == "start" and task in _STARTS:
            host.state, host.since = _STARTS[task], moment
            return [f"{name} {host.state}"] if host.state == "soaking" else []
        if kind == "unreachable" or event.get("cut_off"):
            if host.state == "unreachable":
                return []
            host.state, host.since, host.info = "unreachable", moment, "cut off; its lease takes it back"
            return [f"{name} unreachable"]
        if kind == "failed" and host.state not in ("unreachable", "reverted"):
            host.state, host.since = "failed", moment
            host.info = " ".join(str(event.get("msg", "")).split()).removeprefix(f"{name}: ")
            self._verdict(event, name)
            return [f"{name} failed: {host.info}"]
        if kind == "ok":
            return self._ok(event, name, host, moment)
        return []

    def _ok(self, event: Mapping[str, Any], name: str, host: HostProgress, moment: float) -> list[str]:
        task = event.get("task", "")
        if task == "Wave | Order":
            self.epoch = (event.get("status") or {}).get("epoch", self.epoch)
        if task == "Wave | Soak and judge" and self._verdict(event, name):
            host.state, host.since, host.info = "judged", moment, _numbers(self.verdicts[name])
            return [f"{name} gate {self.verdicts[name]['outcome']}: {host.info}"]
        if task == "Wave | Confirm":
            host.state, host.since = "confirmed", moment
            return [f"{name} confirmed"]
        if task.startswith("Wave | Take the whole wave back") and host.state != "unreachable":
            host.state, host.since = "reverted", moment
            return [f"{name} back on userspace TLS"]
        return []

    def _verdict(self, event: Mapping[str, Any], name: str) -> bool:
        gate = event.get("ktls_gate")
        if isinstance(gate, dict):
            self.verdicts[name] = gate
        return isinstance(gate, dict)


def _numbers(gate: Mapping[str, Any]) -> str:
    share = gate.get("share")
    percent = "no traffic" if share is None else f"{int(share * 10000) / 100:.2f} % of bytes"
    return f"{percent}, {gate.get('bytes_total', 0) / 1e6:.1f} MB judged"
