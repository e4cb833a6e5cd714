# SPDX-License-Identifier: Apache-2.0
"""``ktls plan`` over fake agents and canned probes, and its file given to the real Ansible.

What is fake: hosts are one canned result of the probe each, and a fake agent on a socket of this machine. What is real:
the command, the playbook of preflight, the file, and Ansible that reads it.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktls_control.plan import file
from ktls_control.rollout.store import fleet_name

from .conftest import ROOT, Fleet, environment
from .test_preflight import BLOCKED, judged

PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  connection: local
  tasks:
    - copy: {dest: "{{ dest }}", content: "{{ ktls_plan | to_json }}"}
      delegate_to: localhost
"""


@pytest.fixture
def canned(fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    """The fake agents, behind hosts whose probe is canned; the third cannot take tx, the fourth had no drill."""
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path / "state"))
    answers = {name: BLOCKED if name == "web3" else judged("ready") for name in fleet.names}
    hosts = {}
    for number, (name, answer) in enumerate(answers.items()):
        cpu = {"online": 8, "busy": 0.1 * number}
        said = {**answer, "info": {**answer["info"], "cpu": cpu}}
        (tmp_path / f"{name}.json").write_text(json.dumps(said))
        hosts[name] = {
            "ansible_connection": "cannedhost",
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "cannedhost_answer_file": str(tmp_path / f"{name}.json"),
            "ktls_reach": "socket",
            "ktls_agent_socket": str(fleet.directory / name / "agent.sock"),
            "ktls_rack": "off",
        }
    fleet.inventory.write_text(json.dumps({"ktls_hosts": {"hosts": hosts}}))
    state = tmp_path / "state" / fleet_name(str(fleet.inventory), "ktls_hosts")
    state.mkdir(parents=True)
    drills = {name: {"at": time.time() - 60, "passed": True} for name in fleet.names[:3]}
    (state / "drills.json").write_text(json.dumps({"hosts": drills}))
    return fleet


def test_a_plan_from_the_fleet_to_ansible(canned: Fleet, tmp_path: Path) -> None:
    path = tmp_path / "plan.yml"
    done = canned.ktls("plan", "--phase", "tx", "-i", str(canned.inventory), "-o", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
    plan = file.load(path)
    assert {name for wave in plan.waves for name in wave.hosts} == {"web1", "web2"}
    assert {name: [why.code for why in reasons] for name, reasons in plan.refused.items()} == {
        "web3": ["module_blocked"],
        "web4": ["drill_missing"],
    }
    assert plan.hosts["web1"].labels == {"rack": "off", "nic_model": "", "kernel": "6.12.48"}
    assert plan.hosts["web2"].facts["kernel"] == "6.12.0-fake"
    assert plan.headroom.worst_host == "web2" and plan.headroom.worst == 0.1
    for line in ("wave 1 canary", "refused   2 hosts", "drill_missing   1 host   web4", "2 of 4 hosts in 2 waves"):
        assert line in done.stdout
    # Nothing but reading reached an agent.
    assert {request["verb"] for name in canned.names for request in canned.requests(name)} <= {"status", "series"}

    shown = canned.ktls("plan", "--show", str(path), "--json")
    assert shown.returncode == 0 and json.loads(shown.stdout)["sha256"] == plan.sha256


def test_ansible_reads_a_plan_as_it_was_written(tmp_path: Path) -> None:
    """Strings that YAML or Ansible could take for something else, times and numbers; the digest is the same there."""
    from tests.unit.control.plan.test_file import ODD, small

    path, dest = tmp_path / "plan.yml", tmp_path / "read.json"
    odd = tuple(text for text in ODD if "\x00" not in text)
    plan = file.save(small(notes=odd, variables={"off": "1e3", "at": "12:30:00"}, expected_s=1e17), path)
    (tmp_path / "read.yml").write_text(PLAYBOOK)
    extra = ["-e", f"@{path}", "-e", f"dest={dest}"]
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", str(tmp_path / "read.yml")]
    done = subprocess.run(
        [*command, *extra], capture_output=True, text=True, check=False, cwd=ROOT, env=environment(), timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    read: dict[str, Any] = json.loads(dest.read_text())
    assert file.from_fields(read, "ansible") == plan
    assert list(yaml.safe_load(path.read_text().replace("!unsafe", ""))) == [file.KEY]
