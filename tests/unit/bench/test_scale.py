# SPDX-License-Identifier: Apache-2.0
"""The benchmark of many hosts: what it says of what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.errors import BenchError
from bench.scale import hostcli, hosts, result, rollouts, sshd
from bench.scale.cost import run

HERE = Path(rollouts.__file__).parent


def row(way: str, size: int, cpu_s: float, wall_s: float, number: int = 0) -> dict[str, Any]:
    return {
        "way": way,
        "hosts": size,
        "round": number,
        "wall_s": wall_s,
        "cpu_s": cpu_s,
        "memory_mib": 500.0,
        "status": 0,
    }


def found(rows: list[dict[str, Any]], offs: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "date": "2026-01-01", "machine": {"CPUs": "2", "kernel": "6.12", "Python": "CPython"}, "load_before": 0.1,
        "waves": 10, "forks": 25, "soak_s": 1.0, "rollouts": rows, "offs": offs,
    }  # fmt: skip


ROWS = [
    row("rollout", 100, 30, 20),
    row("rollout", 1000, 330, 200),
    row("rollout", 1000, 310, 220, 1),
    row("rollout", 1000, 320, 900, 2),
    row("naive", 1000, 1280, 880),
    row("pings", 1000, 200, 110),
]
OFFS = [
    row("trial -P 8", 1000, 1, 1),
    row("ktls off", 100, 2, 5),
    row("ktls off", 1000, 21, 50),
    row("plain ssh -P 16", 1000, 14, 40),
]


def test_targets_are_of_the_largest_fleet_and_of_medians() -> None:
    said = {one["text"]: one for one in result.targets(found(ROWS, OFFS))}
    naive = said["rollout of 1,000 hosts, CPU, by the naive playbook's"]
    assert (naive["value"], naive["met"]) == (pytest.approx(0.25), True)
    pings = said["rollout of 1,000 hosts, CPU, by that of three pings"]
    assert (pings["value"], pings["met"]) == (pytest.approx(1.6), False)
    assert said["rollout, CPU a host: growth from 100 to 1,000 hosts"]["value"] == pytest.approx(320 / 1000 / 0.3 - 1)
    off = said["off of 1,000 hosts, CPU a host"]
    assert (off["value"], off["met"]) == (pytest.approx(21.0), False)
    assert said["off of 1,000 hosts, wall time, by the best plain parallel ssh"]["value"] == pytest.approx(1.25)


def test_what_was_not_measured_is_not_claimed() -> None:
    assert result.targets(found([], [])) == []
    texts = [one["text"] for one in result.targets(found(ROWS[:2], []))]
    assert not [text for text in texts if "naive" in text or "pings" in text or "off" in text.split()]


def test_the_table_says_what_is_missed_and_has_no_trials() -> None:
    text = result.table(found(ROWS, OFFS))
    assert text.count("**NOT met**") == 3
    assert "trial" not in text
    assert "| rollout, tx | 1,000 | 220.0 | 320.0 | 320.0 | 500 |" in text


def test_waves_hold_every_host_once() -> None:
    assert rollouts.sizes(1000, 10) == [1, *[111] * 9]
    assert sum(rollouts.sizes(100, 10)) == 100
    assert len(rollouts.sizes(100, 10)) == 10
    assert rollouts.sizes(5, 10) == [5]


def test_addresses_are_loopback_and_differ() -> None:
    made = [hosts.address(number) for number in range(2000)]
    assert len(set(made)) == 2000
    assert {one.split(".")[0] for one in made} == {"127"}


def test_the_naive_playbook_is_what_it_says() -> None:
    """Stock modules alone, no facts, no loops: nothing that would make it slower than it has to be."""
    play = yaml.safe_load((HERE / "naive.yml").read_text())[0]
    assert play["gather_facts"] is False
    tasks = play["tasks"][0]["block"]
    for task in tasks:
        assert [key for key in task if "." in key and key.startswith("ansible.builtin.")], task
        assert "loop" not in task
    assert len([task for task in tasks if "ansible.builtin.command" in task]) == 4


def test_a_host_understands_what_playbooks_and_off_say_to_it() -> None:
    order = hostcli.request(["ktls-agent", "order", "--phase", "tx", "--id", "a", "--epoch", "3", "--lease", "300"])
    assert order == {"verb": "order", "order": {"phase": "tx", "id": "a", "epoch": 3, "lease_s": 300.0}}
    assert hostcli.request(["ktls-off", "why", "not"]) == {"verb": "off", "reason": "why not"}
    assert hostcli.request(["ktls-agent", "status", "--json"]) == {"verb": "status"}


def test_cost_counts_children_and_fails_with_the_last_line(tmp_path: Path) -> None:
    burn = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'sum(range(10**7))'])"
    cost = run([sys.executable, "-c", burn], tmp_path / "log", cwd=tmp_path, env={}, timeout_s=60)
    assert cost.cpu_s > 0.1
    with pytest.raises(BenchError, match="status 3: so it is"):
        run(["sh", "-c", "echo so it is; exit 3"], tmp_path / "log", cwd=tmp_path, env={"PATH": "/bin"}, timeout_s=60)


def test_without_sshd_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(BenchError, match="apt-get install openssh-server"):
        sshd.find(None)


def test_a_table_can_be_printed_again(tmp_path: Path) -> None:
    path, other = tmp_path / "result.json", tmp_path / "off.json"
    path.write_text(json.dumps(found(ROWS, [])))
    other.write_text(json.dumps(found([], OFFS)))
    done = subprocess.run(
        [sys.executable, "-m", "bench.scale", "--table", str(path), str(other)],
        capture_output=True, text=True, check=False, cwd=hosts.ROOT, env=hosts.environment(),
    )  # fmt: skip
    assert done.stdout.strip() == result.table(found(ROWS, OFFS)).strip()
    assert done.returncode == 1, "a target was missed"
