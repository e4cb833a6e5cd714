# SPDX-License-Identifier: Apache-2.0
"""The guards beside a real agent: they pull the switch, keep what they saw, and stay out of the way otherwise."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.core import Agent
from ktls_agent.evidence.model import Snapshot
from ktls_agent.guards.config import parse
from ktls_agent.guards.keep import Keep
from ktls_agent.guards.part import GuardPart
from ktls_agent.probe import ProbeResult
from ktls_agent.probe_log import ProbeLog

from ..conftest import Host, order


class Trail:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def record(self, event: str, **detail: Any) -> None:
        if event == "guard_trip":  # the agent records its own
            self.events.append((event, detail))


class Guarded:
    """An agent under an order for tx, its guards, and evidence that a test writes."""

    def __init__(self, host: Host, tmp_path: Path, raw: dict[str, Any]) -> None:
        self.host = host
        self.errors = self.warnings = 0
        self.trail = Trail()
        self.probes = ProbeLog()
        self.kept = tmp_path / "guards"
        quick = raw.pop("quick", False)
        config = parse(raw, "test")
        if quick:
            config = replace(config, probe_interval_s=0.05)
        self.agent: Agent = host.agent()
        self.agent.audit = self.trail
        self.part = GuardPart(
            config, self.agent, self.probes, Keep(str(self.kept), config.keep), self.latest, "/nowhere"
        )

    def latest(self) -> Snapshot:
        counters = {"TlsDecryptError": self.errors, "TlsRxSw": 2 * self.errors}
        return Snapshot(
            self.host.now,
            namespaces={"host": counters},
            kernel_warnings=self.warnings,
            kernel_warning="WARNING: net/tls/tls_sw.c",
        )

    async def step(self, seconds: float = 5.0) -> None:
        self.host.now += seconds
        await self.part.look()

    @property
    def files(self) -> list[dict[str, Any]]:
        names = sorted(os.listdir(self.kept)) if self.kept.exists() else []
        return [json.loads((self.kept / name).read_text()) for name in names]


def guarded(
    host: Host, tmp_path: Path, scenario: Callable[[Guarded], Awaitable[None]], ordered: bool = True, **raw: Any
) -> None:
    async def main() -> None:
        guards = Guarded(host, tmp_path, raw)
        await guards.agent.start()
        try:
            await guards.step()
            if ordered:
                await guards.agent.order(order(lease_s=86400.0))
                await guards.agent.confirm("o1", 1)
                await guards.step()
            await scenario(guards)
        finally:
            await guards.agent.stop()

    asyncio.run(main())


def damaged(at_s: float) -> ProbeResult:
    return ProbeResult(False, at_s, error="its SHA-256 is not the probe object's", failure="content")


def test_one_damaged_probe_switches_off_and_is_kept(host: Host, tmp_path: Path) -> None:
    async def scenario(guards: Guarded) -> None:
        assert guards.agent.state.wanted == "tx"
        guards.probes.note(damaged(host.now))
        await guards.step()
        assert guards.agent.state.latched
        assert host.sidecar.mode == "userspace"
        assert all(host.flags.present())
        reason = host.flags.read().reason
        assert reason == "guard probe_damaged: 1 self-probes that arrived damaged in 5 s (limit 1)"
        (kept,) = guards.files
        assert (kept["guard"], kept["order"]["id"], kept["dry_run"]) == ("probe_damaged", "o1", False)
        assert "SHA-256" in kept["probe_error"]
        assert kept["readings"][-1]["values"]["probe_damaged"] == 1
        assert [event for event, _ in guards.trail.events] == ["guard_trip"]
        status = guards.part.status()
        assert (status["tripped"], status["armed"]) == ("probe_damaged", False)
        assert status["rules"]["probe_damaged"]["state"] == "tripped"
        assert status["last_trip"]["file"].startswith(str(guards.kept))
        await guards.step()
        assert len(guards.files) == 1

    guarded(host, tmp_path, scenario)


def test_the_latch_ends_with_clear_and_the_next_order_is_judged_anew(host: Host, tmp_path: Path) -> None:
    async def scenario(guards: Guarded) -> None:
        guards.warnings = 1
        await guards.step()
        assert guards.part.status()["tripped"] == "kernel_warning"
        assert guards.files[0]["kernel_warning"] == "WARNING: net/tls/tls_sw.c"
        await guards.agent.clear()
        assert guards.part.status()["tripped"] is None
        await guards.step()
        assert guards.agent.state.wanted == "userspace", "clear switches nothing on"
        await guards.agent.order(order("o2", 2))
        for _ in range(3):
            await guards.step()
        assert guards.agent.state.wanted == "tx", "what happened under the old order does not count"
        guards.warnings = 2
        await guards.step(400)
        assert guards.agent.state.latched

    guarded(host, tmp_path, scenario)


def test_without_an_order_they_only_watch(host: Host, tmp_path: Path) -> None:
    async def scenario(guards: Guarded) -> None:
        for _ in range(30):
            guards.errors += 100
            await guards.step()
        assert guards.part.status()["rules"]["decrypt_error"]["state"] in ("over", "tripped")
        assert not guards.agent.state.latched
        assert (guards.files, guards.trail.events) == ([], [])
        await guards.agent.order(order())
        await guards.step()
        assert guards.agent.state.wanted == "tx", "an order begins with a clean sheet"

    guarded(host, tmp_path, scenario, ordered=False)


def test_dry_run_tells_and_switches_nothing(host: Host, tmp_path: Path) -> None:
    async def scenario(guards: Guarded) -> None:
        guards.warnings = 1
        await guards.step()
        assert guards.agent.state.wanted == "tx"
        assert not any(host.flags.present())
        assert guards.files[0]["dry_run"] is True
        assert guards.trail.events[0][1]["dry_run"] is True
        samples = {s.labels["guard"]: s.value for s in list(guards.part.metrics())[1].samples}
        assert samples["kernel_warning"] == 1

    guarded(host, tmp_path, scenario, dry_run=True)


def test_a_full_disk_stops_no_guard_and_evidence_is_written_later(host: Host, tmp_path: Path) -> None:
    async def scenario(guards: Guarded) -> None:
        guards.kept.write_text("in the way")
        guards.warnings = 1
        await guards.step()
        assert guards.agent.state.latched
        assert "not on disk yet" in guards.part.status()["problem"]
        assert guards.part.status()["last_trip"]["guard"] == "kernel_warning"
        guards.kept.unlink()
        await guards.step()
        assert guards.part.status()["problem"] is None
        assert len(guards.files) == 1

    guarded(host, tmp_path, scenario)


def test_a_restarted_agent_knows_who_tripped(host: Host, tmp_path: Path) -> None:
    async def scenario(guards: Guarded) -> None:
        guards.warnings = 1
        await guards.step()
        again = Guarded(host, tmp_path, {})
        await again.agent.start()
        running = asyncio.ensure_future(again.part.run())
        await asyncio.sleep(0.05)
        assert again.part.status()["tripped"] == "kernel_warning"
        assert again.part.status()["last_trip"]["guard"] == "kernel_warning"
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        again.agent.close()

    guarded(host, tmp_path, scenario)


def test_an_off_of_somebody_else_is_not_a_trip(host: Host, tmp_path: Path) -> None:
    async def scenario(guards: Guarded) -> None:
        await guards.agent.off("drill")
        assert guards.part.status()["tripped"] is None
        await guards.agent.clear()
        await guards.agent.off("guard nonsense: what nobody knows")
        assert guards.part.status()["tripped"] is None

    guarded(host, tmp_path, scenario)


def test_a_sidecar_that_does_not_answer_makes_its_rules_blind(host: Host, tmp_path: Path) -> None:
    async def scenario(guards: Guarded) -> None:
        host.sidecar.gone = True
        for _ in range(20):
            await guards.step()
        rules = guards.part.status()["rules"]
        assert rules["bad_record"]["state"] == "blind"
        assert rules["decrypt_error"]["state"] == "ok"
        assert guards.agent.state.wanted == "tx"
        states = next(iter(guards.part.metrics()))
        shown = {s.labels["guard"]: s.labels["state"] for s in states.samples if s.value}
        assert shown["bad_record"] == "blind"

    guarded(host, tmp_path, scenario)


def test_an_observer_that_stopped_does_not_blind_them_to_their_own_namespace(host: Host, tmp_path: Path) -> None:
    async def scenario(guards: Guarded) -> None:
        old = guards.latest()
        guards.part._latest = lambda: old
        (tmp_path / "tls_stat").write_text("TlsDecryptError\t0\nTlsRxSw\t0\n")
        guards.part._stat_path = str(tmp_path / "tls_stat")
        for _ in range(30):
            await guards.step()
        rules = guards.part.status()["rules"]
        assert (rules["decrypt_error"]["state"], rules["kernel_warning"]["state"]) == ("ok", "blind")

    guarded(host, tmp_path, scenario)


def test_probes_run_by_themselves_and_are_looked_at_at_once(host: Host, tmp_path: Path) -> None:
    async def scenario(guards: Guarded) -> None:
        await guards.agent.revert("to watch only")
        asked: list[float] = []

        async def run_probe() -> ProbeResult:
            asked.append(host.now)
            return guards.probes.note(ProbeResult(True, host.now))

        guards.agent.run_probe = run_probe  # type: ignore[method-assign]
        running = asyncio.ensure_future(guards.part.run())
        await asyncio.sleep(0.5)
        running.cancel()
        assert len(asked) >= 2
        assert guards.part.status()["rules"]["probe_failed"]["state"] == "ok", "without waiting for the next look"

    guarded(host, tmp_path, scenario, quick=True, interval_s=600.0)


def test_a_new_snapshot_is_looked_at_at_once(host: Host, tmp_path: Path) -> None:
    async def scenario(guards: Guarded) -> None:
        newest = guards.latest()
        guards.part._latest = lambda: newest
        running = asyncio.ensure_future(guards.part.run())
        await asyncio.sleep(0.1)
        assert guards.agent.state.wanted == "tx"
        guards.warnings, host.now = 1, host.now + 5
        newest = guards.latest()
        guards.part.wake()
        await asyncio.sleep(0.3)
        assert guards.agent.state.latched
        running.cancel()

    guarded(host, tmp_path, scenario, interval_s=600.0)


def test_old_evidence_goes_and_the_rest_is_left_alone(tmp_path: Path) -> None:
    keep = Keep(str(tmp_path / "g"), 3)
    os.mkdir(tmp_path / "g")
    (tmp_path / "g" / "notes.txt").write_text("mine")
    for at in range(5):
        keep.put({"n": at}, 1774000000.0 + at)
    assert len(keep.names()) == 3
    last = keep.last()
    assert last is not None
    assert last["n"] == 4
    (tmp_path / "g" / keep.names()[-1]).write_text("torn {")
    last = keep.last()
    assert last is not None
    assert last["n"] == 3
    assert (tmp_path / "g" / "notes.txt").exists()
