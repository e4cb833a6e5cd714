# SPDX-License-Identifier: Apache-2.0
"""Drills over many hosts: each ends by itself, what came of it is on record, and what is in use is left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ktls_control.drill import record
from ktls_control.rollout.store import fleet_name
from ktls_host.jsonsock import call

from .conftest import Fleet

ORDER = {"id": "r7", "epoch": 7, "phase": "tx", "lease_s": 60, "plan_sha256": "0" * 64}


def test_each_host_is_drilled_for_itself_and_the_plan_can_read_it(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path / "state"))
    call(str(fleet.directory / "web1" / "agent.sock"), {"verb": "order", "order": ORDER})
    fleet.fault("web2", "cut")
    fleet.fault("web3", "refuse")
    # Behind web4 is no kernel TLS: its agent says so, and the counters of this machine do not move.
    done = fleet.playbook("drill", "-e", "ktls_drill_keyupdate=false")
    assert done.returncode != 0
    place = tmp_path / "state" / fleet_name(str(fleet.inventory), "ktls_hosts")
    kept = record.load(place)
    assert {name: (one["passed"], one["code"]) for name, one in kept.items()} == {
        "web2": (False, "cut_off"),
        "web3": (False, "no_ktls"),
        "web4": (False, "drill_enable"),
    }, done.stdout
    assert [request["verb"] for request in fleet.requests("web1")] == ["order", "status"], "in use: not touched"
    assert fleet.states() == {"web1": "tx", "web2": "userspace", "web3": "userspace", "web4": "userspace"}
    assert fleet.requests("web4", "drilled")[0]["drill"]["step"] == "enable"

    shown = fleet.ktls("drill", "-i", str(fleet.inventory), "--limit", "web1,web2", "--json")
    assert shown.returncode == 1, shown.stderr
    hosts = json.loads(shown.stdout)["hosts"]
    assert (hosts["web1"]["refused"], hosts["web2"]["refused"]) == (True, False)
    assert "r7" in hosts["web1"]["detail"]
    assert "cannot be reached" in hosts["web2"]["detail"]
    assert "web1" not in record.load(place)


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_a_drill_of_hw_orders_hw_and_is_kept_apart(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path / "state"))
    fleet.fault("web2", "refuse")
    done = fleet.playbook("drill", "-e", "ktls_drill_keyupdate=false", "-e", "ktls_drill_phase=hw")
    assert done.returncode != 0
    place = tmp_path / "state" / fleet_name(str(fleet.inventory), "ktls_hosts")
    kept = record.load(place, "hw")
    # The counters of this machine's kernel do not move: what a fake agent says of itself proves nothing.
    assert {name: (one["phase"], one["code"]) for name, one in kept.items()} == {
        "web1": ("hw", "drill_enable"),
        "web2": ("hw", "no_ktls"),
    }, done.stdout
    assert record.load(place) == {}
    order = fleet.requests("web1", "order")[0]["order"]
    assert (order["phase"], order["lease_s"]) == ("hw", 120.0)
    assert fleet.states() == {"web1": "userspace", "web2": "userspace"}


def test_check_mode_touches_and_keeps_nothing(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path / "state"))
    done = fleet.playbook("drill", "--check", "--limit", "localhost,web1")
    assert done.returncode == 0, done.stdout
    assert fleet.requests("web1") == []
    assert not (tmp_path / "state").exists()
