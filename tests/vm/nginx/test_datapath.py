# SPDX-License-Identifier: Apache-2.0
"""An nginx that was there before is switched by orders, under load: not one failed request, and it goes off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..conftest import StartLab
from ..fleet.fleet import Deployed

GUEST = Path(__file__).with_name("guest")
HOST = "web1"
VARIABLES = ("-e", "ktls_datapath=nginx", "-e", "ktls_tx_rx_consent=true")
# What an operator of this host reads of every order.
Json = dict[str, Any]


def shell(host: Deployed, script: str, stdin: str | None = None) -> str:
    done = host.lab.ssh(HOST, script, stdin=stdin, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def guest(host: Deployed, verb: str) -> Json:
    found: Json = json.loads(shell(host, f"python3 /root/guest.py {verb}"))
    return found


@pytest.fixture(scope="module")
def host(start_lab: StartLab) -> Iterator[Deployed]:
    """Return a host whose nginx serves a site, deployed with that as its datapath."""
    fleet = Deployed(start_lab("nginx", image=("debian13-bench",)))
    shell(fleet, "sh -s", (GUEST / "site.sh").read_text())
    shell(fleet, "cat >/root/guest.py", (GUEST / "guest.py").read_text())
    done = fleet.run("ansible-playbook", "playbooks/deploy.yml", *VARIABLES)
    assert done.returncode == 0, done.stdout + done.stderr
    yield fleet
    fleet.lab.down()


def order(host: Deployed, identity: str, epoch: int) -> Json:
    """Order tx. An emulated host takes its time: nginx reads its configuration five times."""
    asked = f"--id {identity} --epoch {epoch} --phase tx --lease 300 --plan-sha256 {'0' * 64} --json"
    done = host.lab.ssh(HOST, f"ktls-agent order {asked}", timeout=150)
    answer: Json = json.loads(done.stdout)
    return answer


def confirm(host: Deployed, identity: str, epoch: int) -> Json:
    answer = host.agent(HOST, "confirm", "--id", identity, "--epoch", str(epoch))
    assert answer["ok"], answer
    return answer


def switched_on(host: Deployed, identity: str, epoch: int) -> None:
    """Order tx, confirm it, and look at what the kernel says of a new connection."""
    answer = order(host, identity, epoch)
    assert answer["ok"], answer
    assert (answer["ordered_phase"], answer["phase"]) == ("tx", "tx+rx"), "never tx alone with this OpenSSL"
    assert (answer["probe"]["ktls_tx"], answer["probe"]["ktls_rx"], answer["probe"]["sha256_ok"]) == (True, True, True)
    assert confirm(host, identity, epoch)["order"] == "committed"
    seen = guest(host, "new")
    assert (seen["tx"], seen["rx"]) == ("sw", "sw"), seen


def test_on_off_on_off_under_load(host: Deployed) -> None:
    status = host.agent(HOST, "status")
    assert status["phase"] == "userspace"
    datapath = status["datapath"]
    assert (datapath["kind"], datapath["unit"]) == ("nginx", "nginx.service")
    assert datapath["modes"] == ["userspace", "tx+rx", "rx"]
    assert not datapath["experiments"]
    assert not guest(host, "new")["ktls"]
    guest(host, "start-load")
    try:
        _on_off_on_off(host)
    finally:
        load = guest(host, "stop-load")
    print({name: load[name] for name in ("requests", "downloads", "slow", "errors")})
    assert load["wrong"] == []
    assert load["errors"] == [], load["wrk"]
    assert load["requests"] > 50, load["wrk"]
    assert load["downloads"] > 3
    assert load["slow"] >= 1
    status = host.agent(HOST, "status")
    rows = {row["assigned"]: row for row in status["sidecar"]["by"]}
    assert rows["tx"]["path"] == "ktls_tx_rx", rows
    assert rows["tx"]["requests_total"] > 10
    assert rows["userspace"]["requests_total"] > 10
    assert status["sidecar"]["errors"] == {}
    assert status["order"] == "reverted"


def _on_off_on_off(host: Deployed) -> None:
    switched_on(host, "first", 1)

    # The kill switch, from the control node, with its three latencies.
    done = host.ktls("off", "--host", HOST, "--json", "--drain", "40", "--reason", "drill")
    off = json.loads(done.stdout)["hosts"][HOST]
    print(off)
    assert (off["off"], off["flag"], off["by"], off["left"]) == (True, True, "agent", 0), off
    assert all(off[name] is not None for name in ("last_new_s", "drained_90_s", "none_left_s"))
    assert not guest(host, "new")["ktls"]
    found = guest(host, "facts")
    assert (found["on"], found["owed"]) == (False, False)

    assert host.agent(HOST, "clear")["ok"]
    switched_on(host, "second", 2)

    # By ktls-off on the host, with nobody there to help.
    shell(host, "systemctl stop ktls-agent; mv /usr/bin/python3 /usr/bin/python3.away")
    try:
        shell(host, "ktls-off nobody-is-there")
        record = shell(host, "cat /run/ktls/revert")
    finally:
        shell(host, "mv /usr/bin/python3.away /usr/bin/python3")
    assert "datapath ok removed /etc/nginx/conf.d/ktls-on.conf" in record, record
    assert not guest(host, "new")["ktls"]
    shell(host, "systemctl start ktls-agent")
    host.wait("the agent answers", lambda: host.agent(HOST, "status").get("sidecar") is not None, 60)


def test_a_flag_alone_is_enough(host: Deployed) -> None:
    """systemd sees it: neither agent nor ktls-off has a part in it."""
    assert host.agent(HOST, "clear")["ok"]
    switched_on(host, "third", 3)
    shell(host, "systemctl stop ktls-agent; touch /run/ktls/off")
    try:
        host.wait("no drop-in, and nginx was told", lambda: _gone(guest(host, "facts")), 60)
        assert not guest(host, "new")["ktls"]
    finally:
        shell(host, "systemctl start ktls-agent")
        host.wait("the agent answers", lambda: host.agent(HOST, "status").get("sidecar") is not None, 60)
    assert host.agent(HOST, "clear")["ok"]


def _gone(found: Json) -> bool:
    return not found["on"] and not found["owed"]


def test_a_broken_configuration_refuses_the_order_and_changes_nothing(host: Deployed) -> None:
    before = guest(host, "facts")
    shell(host, "echo 'roof /nowhere;' >/etc/nginx/conf.d/mistake.conf")
    try:
        answer = order(host, "broken", 4)
        assert answer["error"]["code"] == "nginx_config_broken", answer
        assert 'unknown directive "roof" in /etc/nginx/conf.d/mistake.conf:1' in answer["error"]["message"]
        after = guest(host, "facts")
        assert after["workers"] == before["workers"], "nothing was reloaded"
        assert _gone(after)
        assert host.agent(HOST, "status")["epoch"] < 4, "not even the epoch was taken"
    finally:
        shell(host, "rm /etc/nginx/conf.d/mistake.conf")


def test_without_consent_tx_is_refused(host: Deployed) -> None:
    change = (
        "cp -p /etc/ktls/agent.json /root/agent.json; python3 - <<'X'\nimport json\npath = '/etc/ktls/agent.json'\n"
        "config = json.load(open(path))\nconfig['datapath']['tx_rx_consent'] = False\n"
        "json.dump(config, open(path, 'w'))\nX\nsystemctl restart ktls-agent"
    )
    shell(host, change)
    try:
        host.wait("the agent answers", lambda: host.agent(HOST, "status").get("sidecar") is not None, 60)
        answer = order(host, "no-consent", 5)
        assert answer["error"]["code"] == "tx_means_rx", answer
        assert not guest(host, "facts")["on"]
    finally:
        shell(host, "cp -p /root/agent.json /etc/ktls/agent.json; systemctl restart ktls-agent")


def test_deploy_again_changes_nothing(host: Deployed) -> None:
    done = host.run("ansible-playbook", "playbooks/deploy.yml", *VARIABLES)
    assert done.returncode == 0, done.stdout
    assert " changed=0 " in done.stdout.split("PLAY RECAP")[1].split(HOST)[1], done.stdout
