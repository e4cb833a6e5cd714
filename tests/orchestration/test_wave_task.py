# SPDX-License-Identifier: Apache-2.0
"""How a wave's tasks reach the agent of a host: by its command line, whatever the connection and the way to root."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktls_control.rollout.answers import Target, WaveFile
from ktls_control.rollout.machine import UNTOUCHED

from .conftest import ROOT, Fleet

PLAN = "5" * 64
FACTS = {"kernel": "6.12.0-fake", "agent": "fake"}
PLAYBOOK: list[dict[str, Any]] = [
    {
        "hosts": "ktls_hosts",
        "gather_facts": False,
        "tasks": [{"ktls.fleet.ktls_wave": {"step": "{{ step }}", "wave": "{{ wave }}"}, "ignore_errors": True}],
    }
]

# Says what sudo says to a user who has not logged in for long, and something after the command.
SUDO = """#!/bin/sh
echo "$@" >>{log}
echo 'Last login: Thu Nov 26 from nowhere'
while [ "$1" != /bin/sh ]; do shift; done
"$@"
status=$?
echo '{{"bye": true}}'
exit $status
"""

# What a release without the verb makes of it.
OLD = """import argparse
parser = argparse.ArgumentParser(prog="ktls-agent")
parser.add_subparsers(dest="verb", required=True, metavar="VERB").add_parser("status")
parser.parse_args()
"""


@dataclass
class Wave:
    """One wave with all hosts of a fleet, and a playbook that does its steps."""

    fleet: Fleet
    file: WaveFile
    variables: dict[str, dict[str, Any]]
    place: Path

    def run(self, step: str, *arguments: str) -> str:
        """Do a step on every host; what Ansible printed."""
        inventory = yaml.safe_load(self.fleet.inventory.read_text())
        for name, more in self.variables.items():
            inventory["ktls_hosts"]["hosts"][name].update(more)
        self.fleet.inventory.write_text(json.dumps(inventory))
        playbook = self.place / "wave.yml"
        playbook.write_text(json.dumps(PLAYBOOK))
        done = self.fleet.playbook(
            str(playbook.with_suffix("")),
            *("-e", f"step={step}", "-e", f"wave={self.file.path}", *arguments),
            ANSIBLE_BECOME_ALLOW_SAME_USER="1",
        )
        assert "Traceback" not in done.stdout + done.stderr
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def answer(self, host: str, step: str) -> dict[str, Any]:
        """What is kept for the engine."""
        found = self.file.answer(host, step)
        assert found is not None, (host, step)
        return found

    def sent(self, host: str) -> list[dict[str, Any]]:
        """What went over the connection to a host: commands, and how much was on their standard input."""
        log = self.fleet.directory / host / "sent.jsonl"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def wave(fleet: Fleet, tmp_path: Path) -> Wave:
    """Hosts are reached in as many ways as the test says."""
    command = f"{sys.executable} {ROOT}/agent/zipapp_main.py agent"
    hosts = {name: Target(FACTS, str(fleet.directory / name / "agent.sock"), agent=command) for name in fleet.names}
    answers = tmp_path / "answers"
    answers.mkdir()
    file = WaveFile(str(answers), 1, 1, "run-w1", 7, "tx", 60.0, PLAN, hosts)
    return Wave(fleet, file, {}, tmp_path)


def change(wave: Wave, host: str, **target: Any) -> None:
    """Another target for a host."""
    wave.file = WaveFile(
        **{
            **{key: getattr(wave.file, key) for key in wave.file.__dataclass_fields__},
            "hosts": {**wave.file.hosts, host: Target(**{**vars(wave.file.hosts[host]), **target})},
        }
    )


@pytest.mark.parametrize("fleet", [3], indirect=True)
def test_plain_become_and_a_connection_without_pipelining_do_the_same(wave: Wave) -> None:
    plain, become, module = wave.fleet.names
    sudo, log = wave.place / "sudo", wave.place / "sudo.log"
    sudo.write_text(SUDO.format(log=log))
    sudo.chmod(0o755)
    wave.variables = {
        become: {"ansible_become": True, "ansible_become_exe": str(sudo)},
        module: {"ansible_pipelining": False},
    }
    wave.file.save()

    said = wave.run("order", "--check", "--diff")
    assert said.count('+phase: "tx"') == 3, said
    assert set(wave.fleet.states().values()) == {"userspace"}, "check mode changes nothing"
    assert all({each["verb"] for each in wave.fleet.requests(name)} == {"status"} for name in wave.fleet.names)

    wave.run("order", "--diff")
    assert set(wave.fleet.states().values()) == {"tx"}
    wave.run("evidence")
    wave.run("confirm")
    for name in wave.fleet.names:
        status = wave.answer(name, "order")["status"]
        assert (status["phase"], status["order_id"], status["epoch"]) == ("tx", "run-w1", 7)
        evidence = wave.answer(name, "evidence")
        assert evidence["status"]["probe"]["ok"] and evidence["series"]["samples"]["at_ms"]
        assert wave.answer(name, "confirm")["ok"]
        assert wave.fleet.peek(name)["order"] == "committed"
        verbs = [each["verb"] for each in wave.fleet.requests(name)]
        assert verbs == ["status", "status", "order", "probe", "series", "status", "confirm"], "the same way for all"
    assert all(len(wave.sent(name)) == 4 for name in (plain, become)), "one command a step"
    assert len(wave.sent(module)) > 4, "a module takes several"
    assert "BECOME-SUCCESS" in log.read_text()
    for each in (*wave.sent(plain), *wave.sent(become)):
        assert PLAN not in each["command"] and "run-w1" not in each["command"], "nothing of it in a list of processes"
        assert 0 < each["input"] < 1000, "a request, no module"


@pytest.mark.parametrize("fleet", [6], indirect=True)
def test_what_cannot_be_asked_says_so_in_one_line(wave: Wave) -> None:
    missing, old, mute, cut, drifted, locked = wave.fleet.names
    (wave.place / "sudo").write_text("#!/bin/sh\necho 'sudo: a password is required' >&2\nexit 1\n")
    (wave.place / "sudo").chmod(0o755)
    wave.variables = {locked: {"ansible_become": True, "ansible_become_exe": str(wave.place / "sudo")}}
    (wave.place / "old.py").write_text(OLD)
    change(wave, missing, agent="/nowhere/ktls-agent")
    change(wave, old, agent=f"{sys.executable} {wave.place}/old.py")
    change(wave, mute, agent="echo nothing of use; false")
    wave.fleet.fault(cut, "cut")
    change(wave, drifted, facts={**FACTS, "kernel": "6.1.0"})
    wave.file.save()

    wave.run("order")
    told = {name: wave.answer(name, "order") for name in wave.fleet.names}
    assert {name: each["code"] for name, each in told.items()} == {
        missing: "agent_missing",
        old: "agent_too_old",
        mute: "failed",
        cut: "cut_off",
        drifted: "facts_drifted",
        locked: "failed",
    }
    for name, each in told.items():
        assert not each["ok"]
        assert each["error"].startswith(f"{name}") and "\n" not in each["error"]
    assert "ktls deploy" in told[missing]["error"] and "ktls deploy" in told[old]["error"]
    assert "the link is down" in told[cut]["error"]
    assert "password" in told[locked]["error"], told[locked]

    wave.run("back")
    for name in wave.fleet.names:
        left_alone = wave.answer(name, "back").get("skipped", False)
        assert left_alone == (told[name]["code"] in UNTOUCHED), name
        assert wave.fleet.requests(name, "revert") == []
