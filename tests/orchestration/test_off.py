# SPDX-License-Identifier: Apache-2.0
"""Off over real SSH to hosts that are well, and to some that are not. What is fake about them: ``sshfleet.py``."""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktls_control.hostlist import FILE_NAME
from ktls_control.off.run import OffRun, switch_off
from ktls_control.reach import Reach
from ktls_control.rollout.store import fleet_name

from .sshfleet import ROOT, SshFleet, ssh_fleet

GROUP = "ktls_hosts"


@pytest.fixture(scope="module")
def ailing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshFleet]:
    """Eight hosts: web1 is well, nobody listens at web2, web3 hangs, web4's key is a stranger's, web5 is slow, web6 has
    no agent, web7 has a Python that is broken and a kernel with open connections, web8 has no ktls-off."""
    directory = tmp_path_factory.mktemp("ssh")
    with ssh_fleet(directory, 8, cut=["web2"], strangers=["web4"]) as fleet:
        (fleet.root("web3") / "hang").touch()
        (fleet.root("web5") / "slow").touch()
        (fleet.root("web6") / "usr/local/bin/ktls-agent").unlink()
        fleet.agent_says("web7", "echo 'python3: error while loading shared libraries' >&2; exit 127\n")
        fleet.kernel("web7", 2, 9)
        (fleet.root("web8") / "usr/local/sbin/ktls-off").unlink()
        yield fleet


@pytest.fixture(scope="module")
def told(ailing: SshFleet) -> tuple[dict[str, Any], float]:
    """What ``ktls off --json`` says of them, and how long it took (s)."""
    started = time.monotonic()
    said = ailing.json("off", "--drain", "3", "--reason", 'it\'s a "test" $(touch /tmp/no)')
    return said, time.monotonic() - started


def test_hosts_that_can_be_reached_are_off(ailing: SshFleet, told: tuple[dict[str, Any], float]) -> None:
    said, _took = told
    assert {name for name, up in ailing.flags().items() if up} == {"web1", "web5", "web6", "web7"}
    assert {name for name, host in said["hosts"].items() if host["off"]} == {"web1", "web5", "web6"}
    assert said["status"] == 1
    reason = (ailing.root("web1") / "run/ktls/off").read_text()
    assert reason == 'it\'s a "test" $(touch /tmp/no)\n', "the reason is text, never a command"


def test_each_one_that_is_not_says_why(told: tuple[dict[str, Any], float]) -> None:
    hosts = told[0]["hosts"]
    for name, code, words in (
        ("web2", "cut_off", "Connection refused"),
        ("web3", "cut_off", "no answer within 8 s"),
        ("web4", "cut_off", "its host key is not the one in known_hosts"),
        ("web7", "not_confirmed", "the kernel counts 2 kTLS connections; the agent did not answer: python3: error"),
        ("web8", "flag_failed", "ktls-off"),
    ):
        assert hosts[name]["code"] == code, hosts[name]
        assert words in hosts[name]["error"], hosts[name]
        assert hosts[name]["error"].startswith(name)
    assert hosts["web7"]["flag"] is True
    assert hosts["web8"]["flag"] is False


def test_a_host_without_an_agent_is_read_back_from_its_kernel(told: tuple[dict[str, Any], float]) -> None:
    host = told[0]["hosts"]["web6"]
    assert (host["off"], host["by"], host["left"]) == (True, "kernel", 0)
    assert "the agent did not answer" in host["note"]
    assert "not found" in host["note"]


def test_one_that_hangs_keeps_nobody_waiting(told: tuple[dict[str, Any], float]) -> None:
    said, _took = told
    assert said["hosts"]["web1"]["flag_s"] < said["took_s"] - 4, "web1 was not behind web3"


def test_the_unreachable_are_listed_with_what_they_will_do(told: tuple[dict[str, Any], float]) -> None:
    hosts = told[0]["hosts"]
    for name in ("web2", "web3", "web4"):
        assert hosts[name]["outlook"]["kind"] == "unknown"
        assert "no journal here says what it was ordered" in hosts[name]["outlook"]["text"]
    assert hosts["web7"]["outlook"] is None, "it was reached"


def test_status_of_the_same_hosts(ailing: SshFleet, told: tuple[dict[str, Any], float]) -> None:
    done = ailing.ktls("status", "--json", "--limit", "web1:web2:web6")
    hosts = json.loads(done.stdout)["hosts"]
    assert done.returncode == 1
    assert (hosts["web1"]["reachable"], hosts["web1"]["phase"]) == (True, "userspace")
    assert (hosts["web2"]["reachable"], "Connection refused" in hosts["web2"]["error"]) == (False, True)
    assert (hosts["web6"]["reachable"], "not found" in hosts["web6"]["error"]) == (True, True)
    assert ailing.ktls("status", "--limit", "web1").returncode == 0


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[SshFleet]:
    """Three hosts that are well."""
    with ssh_fleet(tmp_path, 3) as hosts:
        yield hosts


def journal(fleet: SshFleet, run: str, *, confirmed: tuple[str, ...] = (), ordered: tuple[str, ...] = ()) -> Path:
    """A run under way: wave 1 has web1, wave 2 the rest; and the lock that its engine holds."""
    directory = fleet.directory / "state" / fleet_name(str(fleet.inventory), GROUP)
    place = directory / "runs" / run
    place.mkdir(parents=True)
    waves: list[dict[str, Any]] = [
        {"number": 1, "name": "canary", "hosts": ["web1"]},
        {"number": 2, "name": "rest", "hosts": ["web2", "web3"]},
    ]
    events: list[dict[str, Any]] = [
        {"event": "run_started", "run": run, "fleet": directory.name, "epoch": 4, "phase": "tx", "plan_sha256": "0",
         "operator": "x", "hosts": 3, "waves": waves},
    ]  # fmt: skip
    for number in (1, 2):
        hosts = waves[number - 1]["hosts"]
        events.append({"event": "wave_opened", "wave": number, "name": "", "hosts": hosts, "attempt": 1,
                       "order_id": "o", "epoch": 4, "lease_s": 120})  # fmt: skip
        events += [
            {"event": "host_ordered", "wave": number, "host": host, "ok": True} for host in ordered if host in hosts
        ]
        events += [
            {"event": "host_confirmed", "wave": number, "host": host, "ok": True} for host in confirmed if host in hosts
        ]
    (place / "journal.jsonl").write_text("".join(json.dumps({**event, "at": time.time()}) + "\n" for event in events))
    (directory / "lock").touch()
    return place


def test_a_rollout_under_way_is_told_to_end_and_its_lock_is_in_nobodys_way(fleet: SshFleet) -> None:
    place = journal(fleet, "run-1", ordered=("web1",))
    with open(place.parents[1] / "lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = fleet.ktls("off", "--reason", "resets")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rollout run-1 was under way: told to end" in done.stdout
    asked = json.loads((place / "control" / "off").read_text())
    assert asked.keys() == {"by", "why", "at"}
    assert asked["why"] == "resets"
    assert [path.name for path in (place / "control").iterdir()] == ["off"], "nothing temporary is left"


def test_what_the_unreachable_will_do_is_in_the_journal_and_in_the_flag(tmp_path: Path) -> None:
    key = tmp_path / "flag-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    with ssh_fleet(tmp_path, 3, cut=["web1", "web3"]) as fleet:
        journal(fleet, "run-1", ordered=("web1", "web2", "web3"), confirmed=("web1",))
        (tmp_path / "host_vars").mkdir()
        (tmp_path / "host_vars/web1.yml").write_text("ktls_pull_endpoints: [https://a.example.org/flag]\n")
        publish = ("--publish", str(tmp_path), "--flag-key", str(key), "--flag-fleet", "prod")
        said = fleet.json("off", *publish)["hosts"]
        text = fleet.ktls("off", *publish).stdout
    assert (said["web1"]["outlook"]["kind"], said["web1"]["outlook"]["pulls"]) == ("holds", True)
    assert (said["web3"]["outlook"]["kind"], said["web3"]["outlook"]["pulls"]) == ("reverts", False)
    assert 0 < said["web3"]["outlook"]["deadline"] - time.time() < 120
    assert re.search(r"web1 by itself: holds tx, confirmed .*; it pulls the flag, which says off", text)
    assert re.search(r"web3 by itself: reverts by its lease by .*, in \d+ s \(wave 2 of run run-1\)", text)
    assert "1 of 3 hosts read back on userspace TLS" in text


def test_a_rollout_that_has_ended_is_left_alone(fleet: SshFleet) -> None:
    place = journal(fleet, "run-1", ordered=("web1",))
    with open(place / "journal.jsonl", "a") as stream:
        stream.write(json.dumps({"event": "run_ended", "outcome": "completed", "at": time.time()}) + "\n")
    said = fleet.json("off", "--host", "web1")
    assert said["rollout"] == {"run": None, "told": False, "error": None}
    assert not (place / "control").exists()


def test_a_wave_of_the_newest_run(fleet: SshFleet) -> None:
    journal(fleet, "run-1", ordered=("web1",))
    said = fleet.json("off", "--wave", "2")
    assert list(said["hosts"]) == ["web2", "web3"]
    assert fleet.flags() == {"web1": False, "web2": True, "web3": True}
    refused = fleet.ktls("off", "--wave", "7")
    assert refused.returncode == 1
    assert "run run-1 has no wave 7: it has 1, 2" in refused.stderr


def test_an_inventory_that_broke_is_replaced_by_its_last_good_answer_and_that_is_said(fleet: SshFleet) -> None:
    script = fleet.directory / "hosts.yml"
    script.rename(fleet.directory / "was.yml")
    script.write_text("#!/bin/sh\necho 'the cloud has no answer' >&2\nexit 1\n")
    script.chmod(0o755)
    done = fleet.ktls("off")
    assert done.returncode == 3, done.stdout + done.stderr
    assert all(fleet.flags().values())
    assert "INVENTORY NOT USED" in done.stdout
    assert re.search(r"hosts are those of the last good list, of \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", done.stdout)
    assert "the cloud has no answer" in done.stdout
    limited = fleet.json("off", "--limit", "web*:!web2")
    assert list(limited["hosts"]) == ["web1", "web3"]
    kept = next((fleet.directory / "state").glob(f"*/{FILE_NAME}"))
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_slow_inventory_adds_what_is_new_when_it_answers(fleet: SshFleet) -> None:
    whole = fleet.inventory.read_text()
    # The answer that is kept is an older one, without web3.
    fleet.keep(whole.replace("web3:", "web4:"))
    group = yaml.safe_load(whole)[GROUP]
    answer = {
        GROUP: {"hosts": list(group["hosts"]), "vars": group["vars"]},
        "_meta": {"hostvars": group["hosts"]},
    }
    fleet.inventory.write_text(f"#!/bin/sh\nsleep 1\ncat <<'EOF'\n{json.dumps(answer)}\nEOF\n")
    fleet.inventory.chmod(0o755)
    said = fleet.json("off", "--drain", "1", "--inventory-wait", "0.2")
    assert said["inventory"]["list"] == "inventory"
    assert said["inventory"]["late"] == ["web3"]
    assert said["inventory"]["gone"] == ["web4"]
    assert all(fleet.flags().values())


def test_an_inventory_that_did_not_change_is_not_asked(fleet: SshFleet) -> None:
    assert fleet.json("off", "--host", "web1")["inventory"]["list"] == "unchanged"
    fleet.inventory.write_text(fleet.inventory.read_text() + "# edited\n")
    assert fleet.json("off", "--host", "web1")["inventory"]["list"] == "inventory"
    assert fleet.json("off", "--host", "web1")["inventory"]["list"] == "unchanged"


def test_the_three_latencies(fleet: SshFleet) -> None:
    """Twenty connections on web1: eighteen end after a second, the last two after two."""
    fleet.kernel("web1", 20, 40)
    fleet.left("web1", 20)

    def drain() -> None:
        while not fleet.flags()["web1"]:
            time.sleep(0.05)
        for wait_s, left in ((1.0, 2), (1.5, 0)):
            time.sleep(wait_s)
            fleet.left("web1", left)
            fleet.kernel("web1", left, 40)

    thread = threading.Thread(target=drain)
    thread.start()
    said = fleet.json("off")
    thread.join()
    host = said["hosts"]["web1"]
    assert host["off"], host
    assert host["left"] == 0
    after = {name: host[name] - host["flag_s"] for name in ("drained_90_s", "none_left_s")}
    assert 0.7 < after["drained_90_s"] < after["none_left_s"], host
    assert said["fleet"]["drained_90_s"] == pytest.approx(host["drained_90_s"])
    assert said["fleet"]["none_left_s"] == max(each["none_left_s"] for each in said["hosts"].values())
    assert said["fleet"]["spread"]["none_left_s"]["hosts"] == 3


def test_connections_that_stay_are_counted_and_off_is_off(fleet: SshFleet) -> None:
    fleet.kernel("web2", 3, 9)
    fleet.left("web2", 3)
    done = fleet.ktls("off", "--drain", "1")
    assert done.returncode == 0
    assert "web2: off; last new kTLS connection after 0.0 s, 3 still draining" in done.stdout
    assert "3 kTLS connections of before still draining" in done.stdout


def test_more_hosts_that_drain_than_sessions_may_be_open(fleet: SshFleet) -> None:
    """All flags first; who was told not to wait for its connections is asked again."""
    for name in fleet.names:
        fleet.kernel(name, 2, 9)
        fleet.left(name, 2)
    hosts = fleet.hosts()
    gone = False
    with OffRun(reason="x", started=time.time(), drain_s=60.0, max_open=1) as off:
        off.add(hosts)
        while off.busy:
            off.step()
            if not gone and len(off._earlier) == 2 and off._hearings["web1"]._agent:
                gone = True
                for name in fleet.names:
                    fleet.kernel(name, 0, 9)
                    fleet.left(name, 0)
    for result in off.results.values():
        assert (result.off, result.left) == (True, 0)
        assert result.none_left_s is not None
        assert result.flag_s is not None
        assert result.flag_s < result.none_left_s
        assert result.curve[0][1] == 2, "what the first session saw is not forgotten"


def test_what_one_host_says_cannot_harm_the_others(fleet: SshFleet) -> None:
    fleet.agent_says("web2", """echo '{"ok": true, "sidecar": 7, "connections": "many", "off": []}'\n""")
    hosts = fleet.json("off", "--drain", "2")["hosts"]
    assert all(host["off"] for host in hosts.values())
    assert "makes no sense" in hosts["web2"]["note"]


def test_who_is_turned_away_tries_again_but_not_for_ever(fleet: SshFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ktls_control.off.run._TRIES", 1)
    for name in ("web2/busy1", "web3/busy1", "web3/busy2"):
        host, _, file = name.partition("/")
        (fleet.root(host) / file).touch()
    results = {result.host: result for result in switch_off(fleet.hosts(), reason="x")}
    assert {name: result.off for name, result in results.items()} == {"web1": True, "web2": True, "web3": False}
    assert results["web3"].code == "cut_off"


def test_the_signed_flag_is_published_beside(fleet: SshFleet, tmp_path: Path) -> None:
    key, www = tmp_path / "flag-key", tmp_path / "www"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    www.mkdir()
    (tmp_path / "group_vars").mkdir()
    (tmp_path / "group_vars" / f"{GROUP}.yml").write_text(
        f"ktls_pull_fleet: prod\nktls_pull_key: {key}\nktls_pull_publish: [{www}, /nowhere]\n"
        f"ktls_pull_publish_command: sh -c 'cat > {www}/copy'\n"
    )
    part = fleet.json("off", "--host", "web1")
    assert part["flag"]["wanted"] is False, "the flag is the whole fleet's"
    said = fleet.json("off")
    assert said["status"] == 3, "every host is off; one place has no flag"
    assert all(fleet.flags().values())
    assert "/nowhere" in said["flag"]["error"]
    assert said["flag"]["places"][0] == str(www / "flag")
    assert b"state: off\nreason: ktls off\n" in (www / "flag").read_bytes()
    assert (www / "copy").read_bytes() == (www / "flag").read_bytes()


def test_a_key_that_would_ask_for_a_passphrase_holds_nothing_up(fleet: SshFleet, tmp_path: Path) -> None:
    key = tmp_path / "flag-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(key)], check=True)
    said = fleet.json("off", "--publish", str(tmp_path), "--flag-key", str(key), "--flag-fleet", "prod")
    assert said["status"] == 3
    assert "ssh-keygen does not sign" in said["flag"]["error"]
    assert all(host["off"] for host in said["hosts"].values())


def test_sessions_stay_open_between_questions(fleet: SshFleet) -> None:
    hosts = fleet.hosts()
    with Reach(hosts, timeout_s=20) as reach:
        assert all(reply.data for reply in reach.ask(fleet.names, "status"))
        before = {name: session.child.pid for name, session in reach._sessions.items()}
        for _again in range(3):
            replies = list(reach.ask(fleet.names, "status"))
            assert sorted(reply.host for reply in replies) == fleet.names
        assert {name: session.child.pid for name, session in reach._sessions.items()} == before
        fleet.agent_says("web2", 'echo \'{"ok": false, "error": {"code": "bad_verb", "message": "no"}}\'; exit 1\n')
        refused = next(reply for reply in reach.ask(fleet.names, "status") if reply.host == "web2")
        assert (refused.reached, refused.code, refused.data) == (True, "bad_verb", None)


def test_a_session_that_died_is_opened_anew_and_one_that_hangs_is_given_up(fleet: SshFleet) -> None:
    with Reach(fleet.hosts(), timeout_s=30) as reach:
        assert len(list(reach.ask(fleet.names, "status"))) == 3
        os.kill(reach._sessions["web1"].child.pid, signal.SIGKILL)
        assert all(reply.data for reply in reach.ask(fleet.names, "status"))
        fleet.agent_says("web2", "sleep 30\n")
        reach._timeout_s = 1.0
        lost = next(iter(reach.ask(["web2"], "status")))
        assert (lost.code, lost.error) == ("cut_off", "web2 unreachable: no answer within 1 s")
        (fleet.root("web2") / "agent-says").unlink()
        reach._timeout_s = 30.0
        assert all(reply.data for reply in reach.ask(fleet.names, "status")), "nobody is in disgrace for ever"


def test_fab_does_the_same(fleet: SshFleet) -> None:
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("fab")), "--search-root", str(ROOT), "off", "--inventory",
            str(fleet.inventory), "--host", "web1", "--host", "web3", "--reason", "by fab",
        ],
        capture_output=True, text=True, cwd=fleet.directory, env=fleet.environment(), timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert fleet.flags() == {"web1": True, "web2": False, "web3": True}
    assert (fleet.root("web3") / "run/ktls/off").read_text() == "by fab\n"


def test_the_playbook_does_the_same_and_a_host_without_a_working_agent_is_read_back_too(fleet: SshFleet) -> None:
    place = journal(fleet, "run-1", ordered=("web1",))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(fleet.inventory),
            str(ROOT / "playbooks/off.yml"), "-e", f"ansible_python_interpreter={fleet.directory}/no-python",
            "-e", f"ktls_off_command={fleet.directory}/ktls-off", "-e", "ansible_become=false",
        ],
        capture_output=True, text=True, cwd=ROOT, env=fleet.environment(), timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(fleet.flags().values())
    assert "off.yml" in json.loads((place / "control" / "off").read_text())["by"]
