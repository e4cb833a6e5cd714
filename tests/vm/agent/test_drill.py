# SPDX-License-Identifier: Apache-2.0
"""A drill, and an experiment, on a host whose kernel really does it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from ktls_control.drill import record
from ktls_control.judge.wire import host_series
from ktls_control.rollout.store import fleet_name

from ..fleet.fleet import ROOT, Deployed
from .on_host import HOST, guest, shell

TRIAL = {"method": "switchback", "block_s": 20.0, "washout_s": 2.0, "seed": 0}


def test_a_drill_switches_on_and_off_and_leaves_no_trace(
    deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path))
    deployed.settle()
    done = deployed.ktls("drill", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)["hosts"][HOST]
    print(f"\ndrill: {found['durations']}, {found['compared']} things; new keys: {found['keyupdate']}")
    assert found["passed"], found
    assert found["compared"] > 20
    # Linux 6.12 with OpenSSL 3.5, as docs/compatibility.md has it.
    assert found["keyupdate"]["tx"] == {"peer": "ok", "peer_requested": "breaks", "own": "breaks"}
    assert record.load(tmp_path / fleet_name(str(ROOT / "inventory/lab"), "ktls_hosts"))[HOST]["passed"]
    status = deployed.agent(HOST, "status")
    assert (status["phase"], status["off"]["flag"], status["order"]) == ("userspace", False, "reverted")
    assert status["drill"]["last"]["ok"]
    assert sum(count for name, count in status["tls_stat"].items() if name.startswith("TlsCurr")) == 0
    trail = shell(deployed, "ktls-agent audit show --json")
    said = [json.loads(line)["event"] for line in trail.splitlines() if line.startswith("{")]
    assert [event for event in said if event in ("order", "pending", "off", "clear", "drill")][-5:] == [
        "order", "pending", "off", "clear", "drill",
    ]  # fmt: skip


@pytest.mark.more
def test_a_host_in_use_is_not_drilled(deployed: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path))
    epoch = deployed.settle()
    assert deployed.order(HOST, "tx", epoch + 1, lease_s=300, identity="in-use")["order"] == "pending"
    done = deployed.ktls("drill", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["hosts"][HOST]["refused"]
    assert deployed.agent(HOST, "status")["phase"] == "tx"


def test_a_switchback_turns_new_connections_and_a_confirmation_makes_them_whole(deployed: Deployed) -> None:
    epoch = deployed.settle() + 1
    words = ["order", "--id", "trial", "--epoch", str(epoch), "--phase", "tx", "--lease", "600"]
    deployed.agent(HOST, *words, "--plan-sha256", "0" * 64, "--experiment", json.dumps(TRIAL))
    with deployed.load(HOST):
        seen: dict[int, set[bool]] = {}
        end = time.monotonic() + 400
        while set().union(*seen.values()) != {True, False} and time.monotonic() < end:
            before = deployed.agent(HOST, "status")["experiment"]
            kernel = guest(deployed, "is-ktls")["is_ktls"]
            after = deployed.agent(HOST, "status")["experiment"]
            if (before["state"], before["block"]) == ("running", after["block"]):
                assert kernel == (before["share"] == 1), (before, kernel)
                seen.setdefault(before["block"], set()).add(kernel)
        assert {True, False} == set().union(*seen.values()), seen
        status = deployed.agent(HOST, "confirm", "--id", "trial", "--epoch", str(epoch))
        assert (status["order"], status["sidecar"]["share"], status["experiment"]["state"]) == ("committed", 1, "ended")
        assert guest(deployed, "is-ktls")["is_ktls"]
    series = host_series(HOST, deployed.agent(HOST, "series"), time.time())
    assert series.ordered_at_s is not None
    baseline = [one for one in series.samples if one.at_s <= series.ordered_at_s]
    tried = [one for one in series.samples if one.at_s > series.ordered_at_s]
    print(f"\nseries: {len(baseline)} before, {[(one.arm, one.washout, round(one.seconds, 1)) for one in tried]}")
    assert {"on", "off"} <= {one.arm for one in tried if not one.washout}
    assert all(one.cpu_s is not None and one.sent is not None for one in series.samples)
    for one in tried:
        if not one.washout and one.arm == "on" and one.sent:
            assert one.cpu_s, "who sends uses CPU time"
    assert sum(one.connections or 0 for one in tried) > 4
