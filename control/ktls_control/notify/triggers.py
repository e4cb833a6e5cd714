# SPDX-License-Identifier: Apache-2.0
"""Which events of a journal are told, and what is said of each. Pure.

The nine are those of Argo Rollouts' default notifications, in the words of this project.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TRIGGERS: Mapping[str, str] = {
    "rollout_started": "a rollout was started, or goes on after its controller was",
    "wave_started": "the hosts of a wave are ordered to take the phase",
    "gate_started": "a wave has the phase, and is watched",
    "gate_failed": "the gate of a wave failed: the wave goes back",
    "gate_inconclusive": "the gate cannot tell",
    "rollout_waiting": "nothing goes on before a person says so, or a freeze has ended",
    "wave_promoted": "a wave passed its gate and was confirmed",
    "rollout_aborted": "the rollout ended before it was done: aborted, failed, or switched off",
    "rollout_completed": "every wave was confirmed",
}

#: Reasons of a verdict that are told, and the length of each.
_REASONS, _LONGEST = 20, 500


@dataclass(frozen=True)
class Message:
    """What is told.

    :param id: the same for every attempt and every resend, so that a receiver can tell what it has had.
    :param of: ``seq`` of the event.
    """

    id: str
    of: int
    trigger: str
    text: str
    at: float
    data: Mapping[str, Any]

    def body(self) -> dict[str, Any]:
        """The JSON that is sent."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.at))
        return {"type": f"ktls.{self.trigger}", "timestamp": stamp, "text": self.text, "data": dict(self.data)}


@dataclass
class Context:
    """What the events of a run leave unsaid because its first one said it."""

    run: str = ""
    fleet: str = ""
    phase: str = ""
    means: str = ""
    epoch: int = 0
    waves: int = 0

    def learn(self, event: Mapping[str, Any]) -> None:
        """Take what ``run_started`` and ``run_resumed`` say."""
        if event["event"] == "run_started":
            self.run, self.fleet, self.phase = str(event["run"]), str(event["fleet"]), str(event["phase"])
            self.means = str(event.get("means") or self.phase)
            self.waves = len(event["waves"])
        if event["event"] in ("run_started", "run_resumed"):
            self.epoch = int(event["epoch"])

    def message(self, event: Mapping[str, Any]) -> Message | None:
        """What to tell of an event; None for most."""
        found = _message(event, self)
        if found is None:
            return None
        trigger, text, data = found
        head = {"run": self.run, "fleet": self.fleet, "phase": self.phase, "epoch": self.epoch}
        if "wave" in event:
            head["wave"] = event["wave"]
        where = f"kTLS rollout {self.run} ({self.fleet}, phase {self.means})"
        of = int(event["seq"])
        return Message(f"{self.run}-{of}", of, trigger, f"{where}: {text}", float(event["at"]), {**head, **data})


def _message(event: Mapping[str, Any], context: Context) -> tuple[str, str, dict[str, Any]] | None:
    name = event["event"]
    wave = f"wave {event.get('wave')} of {context.waves}"
    if name == "run_started":
        text = f"started by {event['operator']}: {event['hosts']} hosts in {context.waves} waves"
        return "rollout_started", text, {"operator": event["operator"], "hosts": event["hosts"], "resumed": False}
    if name == "run_resumed":
        return "rollout_started", f"goes on, by {event['operator']}", {"operator": event["operator"], "resumed": True}
    if name == "wave_opened":
        return "wave_started", f"{wave}: {len(event['hosts'])} hosts are ordered", {"hosts": len(event["hosts"])}
    if name == "soak_started":
        return "gate_started", f"{wave}: soaks for {event['min_s']:.0f} s or more", {"min_s": event["min_s"]}
    if name == "verdict" and event["outcome"] != "pass":
        reasons = [str(reason)[:_LONGEST] for reason in event["verdict"].get("reasons") or ()][:_REASONS]
        trigger = "gate_failed" if event["outcome"] == "fail" else "gate_inconclusive"
        said = "failed" if event["outcome"] == "fail" else "cannot tell"
        return trigger, f"{wave}: the gate {said}: {'; '.join(reasons) or 'no reason given'}", {"reasons": reasons}
    if name == "waiting":
        data = {"on": event["on"], **({"until": event["until"]} if event.get("until") else {})}
        return "rollout_waiting", f"{wave}: waits ({event['on']})", data
    if name == "wave_promoted":
        return "wave_promoted", f"{wave}: promoted", {}
    if name == "run_ended":
        why = str(event.get("why") or "")[:_LONGEST]
        data = {"outcome": event["outcome"], "why": why}
        trigger = "rollout_completed" if event["outcome"] == "completed" else "rollout_aborted"
        return trigger, f"{event['outcome']}{': ' + why if why else ''}", data
    return None
