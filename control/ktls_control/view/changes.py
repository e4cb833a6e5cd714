# SPDX-License-Identifier: Apache-2.0
"""A journal's events as lines for a log: one for each change that somebody would want to know. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..rollout.state import RunState, apply
from . import cards, verdicts, words


class Changes:
    """Fed with events it keeps the state and says what changed."""

    def __init__(self) -> None:
        self.state = RunState()

    def feed(self, event: Mapping[str, Any]) -> list[str]:
        """Take one event; the lines it is worth, none for most."""
        lost = self._lost() if event["event"] == "observed" else {}
        apply(self.state, event)
        name = event["event"]
        wave = f"wave {event['wave']}" if "wave" in event else "run"
        if name == "observed":
            now = self._lost()
            return [f"{host}: unreachable: {why or 'no answer'}" for host, why in now.items() if host not in lost] + [
                f"{host}: answers again" for host in lost if host not in now
            ]
        if name == "fleet_off":
            return [line] if (line := cards.fleet_off(self.state)) else []
        if name in ("host_ordered", "host_confirmed", "host_reverted"):
            return [] if event["ok"] else [f"{event['host']}: {name.removeprefix('host_')}: NOT: {_why(event)}"]
        line = _LINES[name](event) if name in _LINES else None
        return [f"{wave} {line}"] if line else []

    def _lost(self) -> dict[str, str]:
        return {
            name: host.info.removeprefix(f"{name} unreachable: ")
            for wave in self.state.waves
            for name, host in wave.hosts.items()
            if host.lost is not None
        }


def _why(event: Mapping[str, Any]) -> str:
    said = str(event.get("error") or "no reason given").removeprefix(f"{event['host']}: ")
    left, holds = event.get("lease_left_s"), event.get("holds")
    if holds == "yes":
        return f"{said}; confirmed before: it holds until ktls off reaches it"
    if left is None:
        return said
    return f"{said}; reverts by itself in {words.duration(float(left))}" + (
        ", unless its confirmation arrived" if holds else ""
    )


def _verdict(event: Mapping[str, Any]) -> str:
    numbers = "; ".join(verdicts.numbers(event["verdict"]))
    reasons = "; ".join(verdicts.reasons({"outcome": event["outcome"], **event["verdict"]}))
    return f"gate: {event['outcome']}" + (f": {reasons}" if reasons else "") + (f" ({numbers})" if numbers else "")


def _waiting(event: Mapping[str, Any]) -> str:
    what = words.WAITS.get(event["on"], (event["on"], True))[0]
    until = f" until {words.moment(float(event['until']))}" if event.get("until") else ""
    return f"waits: {what}{until}" + (
        ": ktls promote, or ktls abort" if event["on"] in ("approval", "inconclusive") else ""
    )


def _phase(event: Mapping[str, Any]) -> str:
    """``tx+rx`` where that is what tx means."""
    return str(event.get("means") or event["phase"])


def _ended(event: Mapping[str, Any]) -> str:
    return f"{event['outcome']}" + (f": {event['why']}" if event.get("why") else "")


_LINES = {
    "run_started": lambda e: (
        f"{e['run']}: phase {_phase(e)} on {e['hosts']} hosts in {len(e['waves'])} waves, epoch {e['epoch']}"
    ),
    "run_resumed": lambda e: f"resumed by {e['operator']}, epoch {e['epoch']}",
    "wave_opened": lambda e: f"{e['name']}: ordering {len(e['hosts'])} hosts, lease {words.duration(e['lease_s'])}",
    "soak_started": lambda e: f"soaks for {words.duration(e['min_s'])} at least, {words.duration(e['max_s'])} at most",
    "verdict": _verdict,
    "sentinel": lambda e: f"sentinel {e['sight']}: {e['why']}",
    "waiting": _waiting,
    "waited": lambda e: f"goes on{' by ' + str(e['by']) if e.get('by') else ''}",
    "control": lambda e: f"{e['verb']} by {e['by']}{': ' + str(e['why']) if e.get('why') else ''}",
    "confirming": lambda _e: "confirming",
    "wave_promoted": lambda _e: "promoted",
    "wave_reverting": lambda e: f"goes back: {e['why']}",
    "wave_reverted": lambda _e: "is back on userspace TLS, but for the hosts named",
    "run_ended": _ended,
}
