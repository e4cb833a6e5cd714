# SPDX-License-Identifier: Apache-2.0
"""Plans and journals for these tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ktls_control.plan import file
from ktls_control.plan.model import Gates, Plan, PlannedHost, Soak, Wave


def plan(sizes: Sequence[int] = (1, 5, 25, 69), gates: Gates | None = None, **changes: Any) -> Plan:
    """A plan of so many hosts in each wave; every fifth has NIC model X, and racks are of ten."""
    names = [f"web{number}" for number in range(sum(sizes))]
    hosts = {
        name: PlannedHost(
            {"kernel": "6.12"}, {"rack": f"r{number // 10}", "nic_model": "X" if number % 5 == 4 else "Y", "kernel": ""}
        )
        for number, name in enumerate(names)
    }
    soak = changes.pop("soak", Soak(600, 1200))
    waves, first = [], 0
    for number, size in enumerate(sizes, 1):
        waves.append(Wave(number, f"wave-{number}", tuple(names[first : first + size]), soak))
        first += size
    fields: dict[str, Any] = {
        "version": 1, "id": "p1", "created": "2026-01-01T00:00:00+00:00", "phase": "tx", "inventory": "hosts",
        "group": "ktls_hosts", "limit": None, "fleet": "f", "epoch_floor": 1, "lease_s": 3600, "failure_budget": 0,
        "hosts": hosts, "refused": {}, "waves": tuple(waves), "gates": gates or Gates(),
    }  # fmt: skip
    return file.seal(Plan(**{**fields, **changes}))


def journal(
    of: Plan, *, order_s: float, judge_s: float, confirm_s: float, ends_in: int | None = None
) -> list[dict[str, Any]]:
    """The journal of a run of a plan in which each part took so long; wave ``ends_in`` failed its gate."""
    at = 1000.0
    events: list[dict[str, Any]] = []

    def say(event: str, **keys: Any) -> None:
        events.append({"seq": len(events) + 1, "at": at, "event": event, **keys})

    waves = [{"number": wave.number, "name": wave.name, "hosts": list(wave.hosts)} for wave in of.waves]
    say("run_started", run="r", fleet=of.fleet, epoch=2, phase=of.phase, plan_sha256=of.sha256, operator="me",
        hosts=[], waves=waves)  # fmt: skip
    for wave in of.waves:
        say("wave_opened", wave=wave.number, name=wave.name, hosts=list(wave.hosts), attempt=1, order_id="o", epoch=2,
            lease_s=3600)  # fmt: skip
        at += order_s
        for name in wave.hosts:
            say("host_ordered", wave=wave.number, host=name, ok=True)
        say("soak_started", wave=wave.number, min_s=wave.soak.min_s, max_s=wave.soak.max_s)
        at += wave.soak.min_s + judge_s
        outcome = "fail" if ends_in == wave.number else "pass"
        say("verdict", wave=wave.number, outcome=outcome, verdict={"outcome": outcome}, recheck={})
        if outcome == "fail":
            say("wave_reverting", wave=wave.number, why="gate")
            at += confirm_s
            say("wave_reverted", wave=wave.number, why="gate")
            say("run_ended", outcome="failed")
            return events
        say("waiting", wave=wave.number, on="approval")
        at += 500
        say("waited", wave=wave.number, on="approval")
        say("confirming", wave=wave.number)
        at += confirm_s
        say("wave_promoted", wave=wave.number)
    say("run_ended", outcome="completed")
    return events
