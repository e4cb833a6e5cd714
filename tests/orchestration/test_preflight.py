# SPDX-License-Identifier: Apache-2.0
"""Preflight of a fleet in which some are ready, some are not, and some do not answer.

What is fake: each host is one canned result of the probe (``connection/cannedhost.py``). What is real: playbook, role,
filter and command, and what they send to a host. The last test asks the real probe.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, Fleet, environment

PHASES = ("userspace", "tx", "rx", "hw")
SSH = "Failed to connect to the host via ssh: ssh: connect to host {} port 22: No route to host"
NOTE = {"code": "key_update_breaks_tx", "message": "a client's new keys end the connection", "cure": "kernel 6.14"}


@dataclass
class Canned:
    """Hosts under a directory, each with its answer and a record of what was sent to it."""

    directory: Path
    inventory: Path
    names: list[str]

    def sent(self, name: str) -> list[tuple[str, dict[str, Any]]]:
        """Modules that went to a host, with their arguments."""
        log = self.directory / f"{name}.sent"
        lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
        return [
            (
                line["module"],
                {
                    key: value
                    for key, value in json.loads(line["params"])["ANSIBLE_MODULE_ARGS"].items()
                    if not key.startswith("_")
                },
            )
            for line in lines
        ]

    def playbook(self, path: str | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook with plain ``ansible-playbook``."""
        return self._run("ansible-playbook", "-i", str(self.inventory), str(ROOT / path), *arguments, cwd=ROOT)

    def ktls(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``ktls preflight``."""
        return self._run("ktls", "preflight", "-i", str(self.inventory), *arguments, cwd=self.directory)

    @staticmethod
    def _run(program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).with_name(program)), *arguments],
            capture_output=True, text=True, cwd=cwd, env=environment(), timeout=240, check=False,
        )  # fmt: skip


def judged(verdict: str, *reasons: tuple[str, str, str], kernel: str = "6.12.48", note: bool = False) -> dict[str, Any]:
    """What ``ktls_info`` returns of a host; phase userspace is ready everywhere."""
    told = [{"code": code, "message": m, "cure": c, "link": f"docs/diagnostics.md#{code}"} for code, m, c in reasons]
    said = {"verdict": verdict, "reasons": told, "notes": [NOTE] if note else []}
    phases = {phase: said if phase != "userspace" else {**said, "verdict": "ready", "reasons": []} for phase in PHASES}
    return {"changed": False, "info": {"kernel": kernel, "phases": phases}}


def missing(kernel: str) -> dict[str, Any]:
    return judged("refused", ("tls_module_missing", f"kernel {kernel} has no module tls", "install it"), kernel=kernel)


BLOCKED = judged("refused", ("module_blocked", "blocked by /etc/modprobe.d/no.conf", "remove it there"))
UNTRIED = judged("unknown", ("not_proved", "module tls is not loaded", "run without --read-only"))
ANSWERS: Mapping[str, dict[str, Any]] = {
    **{f"web{n}": judged("ready", note=n > 10) for n in range(1, 21)},
    **{f"web{n}": missing("6.8.0") for n in range(21, 24)},
    **{f"web{n}": missing("6.8.1") for n in range(24, 26)},
    **{f"db{n}": BLOCKED for n in range(1, 5)},
    "db5": UNTRIED,
    **{f"cache{n}": {"unreachable": SSH.format(f"192.0.2.{n}")} for n in range(1, 4)},
    "cache4": {"failed": True, "msg": "/etc is writable by everybody", "error_code": "unsafe_directory"},
    "cache5": {"failed": True, "msg": "cache5: no Python was found"},
}


@pytest.fixture
def canned(tmp_path: Path) -> Iterator[Canned]:
    """35 hosts."""
    yield prepare(tmp_path, ANSWERS)


def prepare(directory: Path, answers: Mapping[str, dict[str, Any]], **variables: Mapping[str, str]) -> Canned:
    """Write answers and inventory; ``variables`` are more of them for the hosts named."""
    hosts: dict[str, Any] = {}
    for name, answer in answers.items():
        path = directory / f"{name}.json"
        path.write_text(json.dumps(answer))
        hosts[name] = {
            "ansible_connection": "cannedhost",
            "ansible_host": f"192.0.2.{name[5:]}" if name.startswith("cache") else name,
            "ansible_python_interpreter": sys.executable,
            "ansible_become": False,
            "cannedhost_answer_file": str(path),
            **variables.get(name, {}),
        }
    inventory = directory / "hosts.yml"
    inventory.write_text(json.dumps({"ktls_hosts": {"hosts": hosts}}))
    return Canned(directory, inventory, list(answers))


def report(stdout: str) -> list[str]:
    """Lines of the report that the playbook shows."""
    _before, _task, after = stdout.partition("TASK [Preflight | Show]")
    lines: list[str] = json.loads(after[after.index("{") : after.index("\n}") + 2])["msg"]
    return lines


GROUPS = [
    "refused  5 hosts: web[21-25]",
    "refused  4 hosts: db[1-4]",
    "unknown  3 hosts: cache[1-3]",
    "unknown  2 hosts: cache[4-5]",
    "unknown  1 host: db5",
    "ready  20 hosts: web[1-20]",
]


def test_the_playbook_ends_with_why_not_worst_first_and_fails(canned: Canned) -> None:
    done = canned.playbook("playbooks/preflight.yml")
    assert done.returncode == 2, done.stdout + done.stderr
    lines = report(done.stdout)
    assert lines[1] == "> tx          20 ready    9 refused    6 unknown"
    assert [line for line in lines if " host" in line and line[0] != " "] == [*GROUPS, "20 of 35 hosts ready for tx"]
    assert "    because  kernel 6.8.0 has no module tls [3 hosts]" in lines
    assert "             kernel 6.8.1 has no module tls [2 hosts]" in lines
    assert "    because  ssh: connect to host HOST port 22: No route to host" in lines, "one wording for three hosts"
    assert "    because  the probe failed (unsafe_directory): /etc is writable by everybody [1 host]" in lines
    assert "             the probe failed: HOST: no Python was found [1 host]" in lines
    assert "    on       10 hosts: web[11-20]" in lines, "what to know before"
    assert done.stdout.count("blocked by /etc/modprobe.d/no.conf") == 1, "a refusal is reported once"
    failed = [line for line in done.stdout.splitlines() if line.startswith("fatal:") and "ignoring" not in line]
    assert [line for line in failed if "20 of 35 hosts ready for tx" in line] == [
        'fatal: [localhost]: FAILED! => {"changed": false, "msg": "20 of 35 hosts ready for tx"}'
    ]


def test_one_module_goes_to_each_host_and_no_more(canned: Canned) -> None:
    canned.playbook("playbooks/preflight.yml")
    for name in canned.names:
        ((module, arguments),) = canned.sent(name)
        assert module == "ktls.fleet.ktls_info", name
        assert (arguments["load_module"], arguments["datapath"]) == (True, "sidecar"), name


@pytest.mark.parametrize("arguments", [("-e", "ktls_preflight_load_module=false"), ("--limit", "localhost,web1")])
def test_loading_the_module_is_for_the_operator_to_say(canned: Canned, arguments: tuple[str, str]) -> None:
    canned.playbook("playbooks/preflight.yml", *arguments)
    ((_, sent),) = canned.sent("web1")
    assert sent["load_module"] is (arguments[0] == "--limit")


@pytest.mark.parametrize(
    ("limit", "status", "says"),
    [
        ("localhost,ktls_hosts[0:19]", 0, "20 of 20 hosts ready for tx"),
        ("web1,web2", 0, "2 of 2 hosts ready for tx"),
        ("web1,db1", 2, "1 of 2 hosts ready for tx"),
        ("web1,cache1", 2, "1 of 2 hosts ready for tx"),
        ("localhost,web1,db5", 2, "1 of 2 hosts ready for tx"),
        ("cache1,cache2,cache3", 2, "0 of 3 hosts ready for tx"),
        ("localhost,cache*", 2, "0 of 5 hosts ready for tx"),
        ("localhost,cache4,cache5", 2, "0 of 2 hosts ready for tx"),
        ("localhost,db1,db2", 2, "0 of 2 hosts ready for tx"),
    ],
)
def test_a_limit_narrows_the_report_and_hides_no_failure(canned: Canned, limit: str, status: int, says: str) -> None:
    done = canned.playbook("playbooks/preflight.yml", "--limit", limit)
    assert done.returncode == status, done.stdout + done.stderr
    assert report(done.stdout)[-1] == says


def test_another_phase_is_judged_on_its_own(canned: Canned) -> None:
    limit = ("--limit", "localhost,db*,web21")
    assert canned.playbook("playbooks/preflight.yml", "-e", "ktls_phase=userspace", *limit).returncode == 0
    assert canned.playbook("playbooks/preflight.yml", "-e", "ktls_phase=hw", *limit).returncode == 2


@pytest.mark.parametrize("limit", [(), ("--limit", "web1")])
def test_a_phase_that_is_none_is_refused(canned: Canned, limit: tuple[str, ...]) -> None:
    done = canned.playbook("playbooks/preflight.yml", "-e", "ktls_phase=warp", *limit)
    assert done.returncode != 0
    assert "there is no phase 'warp'" in done.stdout
    assert limit or canned.sent("web1") == [], "before any host is asked"


def test_one_host_with_a_broken_variable_costs_nobody_else_the_report(tmp_path: Path) -> None:
    broken = {"ansible_host": "{{ there_is_no_such_thing }}"}
    canned = prepare(tmp_path, {"web1": ANSWERS["web1"], "web2": ANSWERS["web2"]}, web2=broken)
    done = canned.playbook("playbooks/preflight.yml")
    assert done.returncode == 2
    lines = report(done.stdout)
    assert "unknown  1 host: web2" in lines
    assert "ready  1 host: web1" in lines
    assert any("there_is_no_such_thing" in line for line in lines)


def test_the_control_node_may_be_one_of_the_hosts(tmp_path: Path) -> None:
    canned = prepare(tmp_path, {"web1": ANSWERS["web1"], "localhost": BLOCKED})
    done = canned.playbook("playbooks/preflight.yml")
    assert done.returncode == 2
    assert "refused  1 host: localhost" in report(done.stdout)


def test_the_command_says_the_same_and_puts_it_into_one_object(canned: Canned) -> None:
    done = canned.ktls("-o", "fleet.json")
    assert done.returncode == 1, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    wanted = [*GROUPS, "20 of 35 hosts ready for tx"]
    assert [line for line in lines if " host" in line and line[0] != " "][1:] == wanted
    assert "Traceback" not in done.stdout + done.stderr
    fleet = json.loads((canned.directory / "fleet.json").read_text())
    assert (fleet["ready"], fleet["total"]) == (20, 35)
    assert fleet["phases"]["userspace"] == {"ready": 30, "refused": 0, "unknown": 5}
    assert [(group["verdict"], group["codes"], len(group["hosts"])) for group in fleet["groups"]] == [
        ("refused", ["tls_module_missing"], 5),
        ("refused", ["module_blocked"], 4),
        ("unknown", ["cut_off"], 3),
        ("unknown", ["no_answer"], 2),
        ("unknown", ["not_proved"], 1),
        ("ready", [], 20),
    ]
    assert set(fleet["hosts"]) == set(canned.names)
    assert fleet["hosts"]["web24"]["kernel"] == "6.8.1"


def test_the_command_with_a_limit_read_only_and_json(canned: Canned) -> None:
    done = canned.ktls("--json", "--read-only", "--limit", "web1,web2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (json.loads(done.stdout)["ready"], done.stderr) == (2, "")
    ((_, sent),) = canned.sent("web1")
    assert sent["load_module"] is False
    assert canned.sent("web3") == []


ROLE = """
- hosts: ktls_hosts
  gather_facts: false
  roles:
    - role: ktls.fleet.ktls_host
      vars: {VARS}
"""


def use_role(canned: Canned, *arguments: str, **variables: object) -> subprocess.CompletedProcess[str]:
    """Run the role as ``deploy`` does."""
    path = canned.directory / "role.yml"
    path.write_text(ROLE.replace("{VARS}", json.dumps(variables)))
    return canned.playbook(path, *arguments)


PROBE = ("ktls.fleet.ktls_info", {"load_module": True, "cache_facts": True})
LOAD = ("ktls.fleet.ktls_module", {"loaded": True, "persistent": True})


def test_the_role_loads_the_module_where_it_may_and_refuses_the_others(canned: Canned) -> None:
    done = use_role(canned, "--limit", "web1,web21,db5")
    assert done.returncode == 2
    assert "web21 cannot take phase tx: kernel 6.8.0 has no module tls (tls_module_missing); cure: install it" in (
        done.stdout
    )
    assert "db5 cannot take phase tx: module tls is not loaded (not_proved)" in done.stdout
    assert canned.sent("web1") == [PROBE, LOAD]
    assert (canned.sent("web21"), canned.sent("db5")) == ([PROBE], [PROBE])


def test_the_role_needs_only_the_phase_asked_for(canned: Canned) -> None:
    assert use_role(canned, "--limit", "web21", ktls_host_phase="userspace").returncode == 0
    assert canned.sent("web21") == [PROBE, LOAD]


def test_the_role_may_only_look(canned: Canned) -> None:
    only_look = {"ktls_host_report_only": True, "ktls_host_load_module": False}
    assert use_role(canned, "--limit", "web1", **only_look).returncode == 0
    assert use_role(canned, "--limit", "db1", **only_look).returncode == 2
    for name in ("web1", "db1"):
        assert canned.sent(name) == [("ktls.fleet.ktls_info", {"load_module": False, "cache_facts": False})]


def test_in_check_mode_what_only_a_trial_can_tell_stays_open(canned: Canned) -> None:
    assert use_role(canned, "--check", "--limit", "db5").returncode == 0
    assert use_role(canned, "--check", "--limit", "db1").returncode == 2


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_the_real_probe_answers_and_a_cut_link_is_no_answer(fleet: Fleet) -> None:
    fleet.fault("web2", "cut")
    done = fleet.ktls("preflight", "-i", str(fleet.inventory), "--phase", "userspace", "--read-only", "--json")
    hosts = json.loads(done.stdout)["hosts"]
    assert hosts["web1"]["kernel"]
    assert set(hosts["web1"]["phases"]) == set(PHASES)
    assert not {"cut_off", "no_answer"} & set(hosts["web1"]["phases"]["tx"]["reasons"])
    assert hosts["web2"]["phases"]["userspace"]["reasons"] == ["cut_off"]
    assert done.returncode == 1
