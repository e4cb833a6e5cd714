# SPDX-License-Identifier: Apache-2.0
"""What a rollout does when hosts misbehave: it stops, takes its wave back, and leaves the rest alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktls_host.jsonsock import call

from .conftest import Fleet

FILE = ("-e", f"ktls_waves_file={Path(__file__).with_name('waves.yml')}")
TX = ("-e", "ktls_phase=tx", *FILE)


def test_all_waves_pass_one_after_the_other_and_the_canary_first(fleet: Fleet) -> None:
    done = fleet.playbook("rollout", *TX)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(fleet.states().values()) == {"tx"}
    assert all(len(fleet.requests(name, "confirm")) == 1 for name in fleet.names)
    ordered = {name: fleet.requests(name, "order")[0]["at"] for name in fleet.names}
    confirmed = {name: fleet.requests(name, "confirm")[0]["at"] for name in fleet.names}
    assert confirmed["web1"] < min(ordered["web2"], ordered["web3"])
    assert max(confirmed["web2"], confirmed["web3"]) < ordered["web4"]


# More of them, without Ansible: tests/unit/control/rollout/test_engine.py.
@pytest.mark.parametrize("fleet", [2], indirect=True)
@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("cut-on-order", "the host did not answer"),
        ("cut-on-probe", "web1 cannot be reached"),
        ("leak", "% of"),
        ("refuse", "no tls ULP"),
    ],
)
def test_a_sick_canary_stops_the_rollout_before_the_second_wave(fleet: Fleet, fault: str, says: str) -> None:
    fleet.fault("web1", fault)
    done = fleet.playbook("rollout", *TX)
    assert done.returncode != 0
    assert says in done.stdout, done.stdout
    assert fleet.requests("web2", "order") == []


@pytest.mark.parametrize("fault", ["cut-on-order", "hash"])
def test_a_sick_host_takes_its_whole_wave_back_and_only_its_wave(fleet: Fleet, fault: str) -> None:
    fleet.fault("web3", fault)
    done = fleet.playbook("rollout", *TX)
    assert done.returncode != 0
    assert fleet.states()["web1"] == "tx", "the wave that passed stays"
    assert fleet.states()["web2"] == "userspace", "the neighbour goes back with the sick host"
    assert fleet.requests("web2", "revert") != []
    assert fleet.requests("web4", "order") == [], "the next wave never starts"
    assert fleet.requests("web2", "confirm") == [], "nobody of a failed wave is confirmed"


def test_a_host_that_is_cut_off_before_the_start_stops_the_rollout(fleet: Fleet) -> None:
    fleet.fault("web4", "cut")
    done = fleet.playbook("rollout", *TX)
    assert done.returncode != 0
    assert "web4 cannot be reached" in done.stdout
    assert all(fleet.requests(name, "order") == [] for name in fleet.names)


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_the_one_flag_takes_everything_back_and_stays_up_until_it_is_cleared(fleet: Fleet) -> None:
    assert fleet.playbook("rollout", *TX).returncode == 0
    done = fleet.playbook("rollout", "-e", "ktls_off=true", "-e", "ktls_off_command=true")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(fleet.states().values()) == {"userspace"}
    assert len(fleet.requests("web1", "order")) == 1, "the flag orders nothing"
    refused = fleet.playbook("rollout", *TX)
    assert refused.returncode != 0
    assert "off flag is up" in refused.stdout
    assert set(fleet.states().values()) == {"userspace"}
    assert fleet.playbook("rollout", *TX, "-e", "ktls_clear_off=true").returncode == 0
    assert set(fleet.states().values()) == {"tx"}
    epochs = [request["order"]["epoch"] for request in fleet.requests("web1", "order")]
    assert epochs == [1, 2, 3], "a higher one for each rollout"
    assert {request["order"]["epoch"] for request in fleet.requests("web2", "order")} == {1, 3}


def test_off_reaches_the_others_when_one_host_is_cut_off(fleet: Fleet) -> None:
    for name in fleet.names:
        order = {"id": "by-hand", "epoch": 1, "phase": "tx", "lease_s": 600.0, "plan_sha256": "0" * 64}
        call(str(fleet.directory / name / "agent.sock"), {"verb": "order", "order": order})
    fleet.fault("web2", "cut")
    done = fleet.playbook("off", "-e", "ktls_off_command=true")
    assert done.returncode != 0, "unreachable is never silent"
    assert fleet.states() == {"web1": "userspace", "web2": "tx", "web3": "userspace", "web4": "userspace"}


def test_check_mode_orders_nothing(fleet: Fleet) -> None:
    done = fleet.playbook("rollout", *TX, "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    asked = {request["verb"] for name in fleet.names for request in fleet.requests(name)}
    assert asked <= {"status", "probe"}


@pytest.mark.parametrize("fleet", [1], indirect=True)
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-e", "ktls_phase=tx", "-e", "ktls_group=nobody"), "the inventory has no group 'nobody'"),
        (("-e", "ktls_phase=tx", "-e", "ktls_lease_s=5"), "ktls_lease_s is 5"),
    ],
)
def test_a_wrong_request_is_refused_in_one_line_before_any_host(
    fleet: Fleet, arguments: tuple[str, ...], says: str
) -> None:
    done = fleet.playbook("rollout", *arguments)
    assert done.returncode != 0
    assert says in done.stdout, done.stdout
    assert fleet.requests("web1") == []


def test_status_reads_every_host_and_changes_none(fleet: Fleet) -> None:
    done = fleet.playbook("status")
    assert done.returncode == 0, done.stdout
    assert "phase userspace, order none" in done.stdout
    assert {r["verb"] for name in fleet.names for r in fleet.requests(name)} == {"status"}


def test_the_ktls_command_says_what_happened_line_by_line(fleet: Fleet) -> None:
    fleet.fault("web3", "hash")
    waves = str(Path(__file__).with_name("waves.yml"))
    done = fleet.ktls("rollout", "-i", str(fleet.inventory), "--phase", "tx", "--waves", waves)
    assert done.returncode == 1
    assert "wave 1 passed" in done.stdout
    assert "web3 failed: probe: content hash differs" in done.stdout
    assert "wave 2 failed" in done.stdout
    assert "wave 3" not in done.stdout
    assert "web2 back on userspace TLS" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
