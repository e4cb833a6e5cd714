# SPDX-License-Identifier: Apache-2.0
"""Plans over fake hosts, through real playbooks: applied, refused, steered, killed and resumed."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

from ktls_control.rollout.lock import held

from .conftest import Fleet


@pytest.mark.parametrize("fleet", [3], indirect=True)
def test_a_plan_is_applied_with_three_tasks_a_host(fleet: Fleet, tmp_path: Path) -> None:
    events = tmp_path / "events.jsonl"
    done = fleet.playbook(
        "rollout", "-e", f"@{fleet.plan(1, 2)}",
        ANSIBLE_CALLBACKS_ENABLED="ktls.fleet.ktls_events", KTLS_EVENTS=str(events),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(fleet.states().values()) == {"tx"}
    assert fleet.events()[-1]["outcome"] == "completed"
    seen = [json.loads(line) for line in events.read_text().splitlines()]
    tasks = Counter(event["task"] for event in seen if event["event"] == "start" and event["host"] == "web3")
    assert tasks == {"Wave | Order": 1, "Wave | Evidence": 1, "Wave | Confirm": 1}
    big = [event for event in seen if event["event"] == "ok" and len(json.dumps(event)) > 1000]
    assert big == [], "what hosts say is kept in files, not in variables"
    run = fleet.runs()[-1]
    assert not held(run.fleet.lock)
    assert (run.fleet.epoch).read_text() == "1\n"


@pytest.mark.parametrize("fleet", [5], indirect=True)
@pytest.mark.parametrize(
    ("fault", "words"), [("leak", "98.00 % of"), ("refuse", "the kernel offers no tls ULP"), ("cut-on-order", "web3")]
)
def test_a_wave_of_several_goes_back_as_one_at_once(fleet: Fleet, fault: str, words: str) -> None:
    """Not by its leases: every host of it is asked to revert, by the name of the order."""
    fleet.fault("web3", fault)
    done = fleet.playbook("rollout", "-e", f"@{fleet.plan(1, 3, 1, lease_s=600.0)}")
    assert done.returncode != 0
    assert words in done.stdout, done.stdout
    well = ["web2", "web4"] if fault != "leak" else ["web2", "web3", "web4"]
    assert {name: fleet.states()[name] for name in well} == dict.fromkeys(well, "userspace"), done.stdout
    assert {name: len(fleet.requests(name, "revert")) for name in well} == dict.fromkeys(well, 1)
    assert fleet.states()["web1"] == "tx", "the wave that passed stays"
    assert fleet.requests("web5", "order") == [], "and nobody else is ordered"
    back = {event["host"]: event["ok"] for event in fleet.events() if event["event"] == "host_reverted"}
    assert [name for name in well if not back.get(name)] == []


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_a_plan_that_was_edited_is_refused(fleet: Fleet) -> None:
    plan = fleet.plan(1, 1)
    plan.write_text(plan.read_text().replace("failure_budget: 0", "failure_budget: 9"))
    done = fleet.playbook("rollout", "-e", f"@{plan}")
    assert done.returncode != 0
    assert "it is not what `ktls plan` wrote" in done.stdout, done.stdout
    told = fleet.ktls("apply", str(plan), "--json")
    assert (told.returncode, json.loads(told.stdout)["error"]["code"]) == (1, "plan_edited")
    assert [fleet.requests(name) for name in fleet.names] == [[], []]
    assert fleet.runs() == []


@pytest.mark.parametrize("fleet", [2], indirect=True)
@pytest.mark.parametrize("check", [(), ("--check", "--diff")])
def test_a_host_that_drifted_since_the_plan_refuses_before_anything_changes(fleet: Fleet, check: tuple[str]) -> None:
    plan = fleet.plan(2)
    fleet.fault("web2", "upgraded")
    done = fleet.playbook("rollout", "-e", f"@{plan}", *check)
    assert done.returncode != 0
    assert "kernel was 6.12.0-fake, is 6.13.0-fake" in done.stdout, done.stdout
    assert {request["verb"] for request in fleet.requests("web2")} <= {"status"}
    assert set(fleet.states().values()) == {"userspace"}


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_check_and_diff_go_all_the_way_to_the_hosts(fleet: Fleet) -> None:
    done = fleet.playbook("rollout", "-e", f"@{fleet.plan(1, 1)}", "--check", "--diff")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('+phase: "tx"') == 2, done.stdout
    assert {r["verb"] for name in fleet.names for r in fleet.requests(name)} == {"status"}
    assert fleet.runs() == [], "nothing is kept of a rehearsal"
    assert not fleet.state_dir.exists()


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_two_operators_and_a_person_who_promotes(fleet: Fleet) -> None:
    plan = str(fleet.plan(1, 1, approve=(1,)))
    where = ("-i", str(fleet.inventory))
    with fleet.started("apply", plan) as first:
        fleet.wait_for("waiting", on="approval")
        second = fleet.ktls("apply", plan)
        assert second.returncode == 1
        assert "ada@control1 rolls out on this fleet since" in second.stdout, second.stdout
        history = json.loads(fleet.ktls("history", *where, "--json").stdout)["runs"]
        assert [(run["outcome"], run["promoted"]) for run in history] == [("running", 0)]
        told = fleet.ktls("explain", "web1", *where)
        assert "web1: judged" in told.stdout, told.stdout
        promoted = fleet.ktls("promote", *where, "--json")
        assert json.loads(promoted.stdout)["noticed"] is True, promoted.stdout + promoted.stderr
        said = first.communicate(timeout=120)[0]
        assert first.returncode == 0, said
    assert "wave 1 waits for approval: `ktls promote` or `ktls abort`" in said
    assert set(fleet.states().values()) == {"tx"}
    refused = fleet.ktls("promote", *where)
    assert "has ended" in refused.stderr


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_abort_of_a_run_that_nobody_drives_is_obeyed_by_resume(fleet: Fleet) -> None:
    where = ("-i", str(fleet.inventory))
    died = fleet.ktls_killed("apply", str(fleet.plan(1, 1)), at="confirming")
    assert "nobody drives this run now: `ktls resume`" in died, died
    aborted = fleet.ktls("abort", *where)
    assert aborted.returncode == 1
    assert "nobody drives run" in aborted.stderr
    resumed = fleet.ktls("resume", *where)
    assert resumed.returncode == 1
    assert "aborted by ada@control1" in resumed.stdout, resumed.stdout
    assert set(fleet.states().values()) == {"userspace"}
    assert fleet.events()[-1]["outcome"] == "aborted"
    again = fleet.ktls("apply", str(fleet.inventory.parent / "plan.yml"))
    assert "abort holds" in again.stdout, again.stdout


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_killed_again_and_again_a_run_comes_to_its_end(fleet: Fleet) -> None:
    plan = f"@{fleet.plan(2)}"
    for event in ("wave_opened", "soak_started", "verdict", "confirming", "wave_promoted"):
        done = fleet.playbook("rollout", "-e", plan, KTLS_TEST_KILL=event)
        assert done.returncode == -9, done.stdout
        assert fleet.events()[-1]["event"] == event, "nobody wrote after the process was gone"
    done = fleet.playbook("rollout", "-e", plan)
    assert done.returncode == 0, done.stdout
    assert {fleet.peek(name)["order"] for name in fleet.names} == {"committed"}
    assert len(fleet.runs()) == 1
    epochs = [event["epoch"] for event in fleet.events() if event["event"] in ("run_started", "run_resumed")]
    assert epochs == [1, 2, 3, 4, 5, 6]
    assert len(fleet.requests("web1", "order")) == 4, "a promoted wave is not ordered again"


@pytest.mark.parametrize("fleet", [2], indirect=True)
@pytest.mark.parametrize("event", ["wave_opened", "verdict"])
def test_a_full_disk_orders_nothing_more_and_takes_the_wave_back(fleet: Fleet, event: str) -> None:
    done = fleet.playbook("rollout", "-e", f"@{fleet.plan(1, 1)}", KTLS_TEST_FULL=event)
    assert done.returncode != 0
    assert "No space left on device" in done.stdout, done.stdout
    assert "free some space there" in done.stdout
    assert set(fleet.states().values()) == {"userspace"}
    assert (len(fleet.requests("web1", "order")), fleet.requests("web2", "order")) == (int(event == "verdict"), [])
    assert fleet.events()[-1]["outcome"] == "failed", "the way back is in the journal: space was kept for it"


@pytest.mark.parametrize("fleet", [1], indirect=True)
def test_the_confirmation_comes_over_a_connection_of_its_own(fleet: Fleet) -> None:
    log = fleet.directory / "ssh.log"
    ssh = fleet.inventory.parent / "ssh"
    # What OpenSSH's client is given, without one: the command runs here.
    ssh.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >> {log}\nfor last; do :; done\nexec sh -c "$last"\n')
    ssh.chmod(0o755)
    data = json.loads(fleet.inventory.read_text())
    data["ktls_hosts"]["hosts"]["web1"].update(ansible_connection="ssh", ansible_ssh_executable=str(ssh))
    fleet.inventory.write_text(json.dumps(data))
    done = fleet.playbook("rollout", "-e", f"@{fleet.plan(1)}")
    assert done.returncode == 0, done.stdout + done.stderr
    paths = [
        re.search(r'ControlPath="?([^" ]+)', line) for line in log.read_text().splitlines() if "ControlPath" in line
    ]
    used = [found[1] for found in paths if found]
    assert used[-1] == "none", used
    assert {os.path.basename(path) for path in used[:-1]} == {os.path.basename(used[0])} != {"none"}


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_an_operator_aborts_by_interrupting(fleet: Fleet) -> None:
    import signal

    with fleet.started("apply", str(fleet.plan(1, 1, approve=(1,)))) as first:
        fleet.wait_for("waiting", on="approval")
        first.send_signal(signal.SIGINT)
        said = first.communicate(timeout=120)[0]
    assert first.returncode == 1
    assert "interrupted: the open wave goes back" in said
    assert set(fleet.states().values()) == {"userspace"}
    assert fleet.events()[-1]["outcome"] == "aborted"
