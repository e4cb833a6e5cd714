# SPDX-License-Identifier: Apache-2.0
"""Fleets that are served by several datapaths, through real playbooks: what is asked of whom, judged and said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ktls_control.drill import record
from ktls_control.plan.model import Gates, Soak
from ktls_control.rollout.store import fleet_name

from .conftest import Fleet

NGINX: dict[str, Any] = {
    "kind": "nginx", "unit": "nginx.service", "program": "nginx", "version": "1.26.3", "experiments": False,
    "modes": ["userspace", "tx+rx", "rx"], "consent": {"tx_rx": True, "restart": False}, "switch": "reload",
}  # fmt: skip
#: Its OpenSSL is older than 3.2: transmit alone.
OLD_NGINX = {**NGINX, "modes": ["userspace", "tx"], "consent": {"tx_rx": False, "restart": False}}
SERVICE: dict[str, Any] = {
    "kind": "service", "unit": "lighttpd.service", "program": "lighttpd", "version": "1.4.79", "experiments": False,
    "modes": ["userspace", "tx+rx"], "consent": {"tx_rx": True, "restart": True}, "switch": "restart",
}  # fmt: skip
PAUSING = Gates(method="none", on_inconclusive="pause")


def refusing(about: dict[str, Any], consent: str) -> dict[str, Any]:
    """The same without one of its consents."""
    return {**about, "consent": {**about["consent"], consent: False}}


@pytest.mark.parametrize("fleet", [12], indirect=True)
def test_a_mixed_fleet_of_a_dozen_goes_on_and_says_what_is_what(fleet: Fleet) -> None:
    for name in ("web2", "web3", "web7", "web8"):
        fleet.serve(name, NGINX)
    fleet.serve("web9", OLD_NGINX)
    fleet.serve("web12", SERVICE)
    plan = str(fleet.plan(2, 5, 5, gates=PAUSING))
    with fleet.started("apply", plan) as run:
        # Nobody counts the failures of a service: that is no pass, and a person decides.
        fleet.wait_for("waiting", within_s=120, on="inconclusive", wave=3)
        where = ("-i", str(fleet.inventory))
        watched = fleet.ktls("status", "--watch", "--timeout", "0.1", *where)
        assert fleet.ktls("promote", *where).returncode == 0
        said = run.communicate(timeout=120)[0]
    assert run.returncode == 0, said
    assert "phase tx (tx+rx on 5 of 12 hosts) on 12 hosts" in watched.stdout, watched.stdout
    assert "every host of the plan is on tx (tx+rx on 5 of 12 hosts)" in said, said
    both = {"web2", "web3", "web7", "web8", "web12"}
    assert fleet.states() == {name: "tx+rx" if name in both else "tx" for name in fleet.names}
    verdicts = {event["wave"]: event for event in fleet.events() if event["event"] == "verdict"}
    assert {number: event["outcome"] for number, event in verdicts.items()} == {
        1: "pass", 2: "pass", 3: "inconclusive",
    }  # fmt: skip
    assert list(verdicts[3]["verdict"]["hosts"]) == ["web12"], verdicts[3]
    assert "lighttpd.service counts no failures" in verdicts[3]["verdict"]["reasons"][0]
    report = (fleet.runs()[-1].directory / "report.html").read_text()
    for words in ("Served by", "nginx, tx+rx", "lighttpd.service, tx+rx, by restart", "tx (tx+rx on 5 of 12 hosts)"):
        assert words in report, words
    told = fleet.ktls("explain", "web12", *where).stdout
    assert "served by: lighttpd.service, tx+rx, by restart (lighttpd 1.4.79)" in told, told
    assert "phase tx is tx+rx here" in told and "no gate hears of its failures" in told
    table = fleet.ktls("status", *where).stdout
    assert "SERVED BY" in table and "lighttpd.service" in table and "tx+rx" in table


@pytest.mark.parametrize("fleet", [3], indirect=True)
def test_no_experiment_is_asked_of_whom_cannot_deal_connections(fleet: Fleet) -> None:
    fleet.serve("web2", NGINX)
    gates = Gates(method="switchback", on_inconclusive="fail")
    done = fleet.playbook("rollout", "-e", f"@{fleet.plan(2, 1, gates=gates, soak=Soak(1.0, 2.0, 0, 100_000))}")
    assert done.returncode != 0
    assert "experiment" in fleet.requests("web1", "order")[0]["order"]
    assert "experiment" not in fleet.requests("web2", "order")[0]["order"]
    reasons = next(event["verdict"]["reasons"] for event in fleet.events() if event["event"] == "verdict")
    assert any(why.startswith("nginx: ") for why in reasons) and any("sidecar: " in why for why in reasons), reasons


@pytest.mark.parametrize("fleet", [4], indirect=True)
@pytest.mark.parametrize(
    ("fault", "words"), [("leak", "98.00 % of"), ("errors", "new nginx.service errors: 5xx"), ("hash", "probe: ")]
)
def test_an_nginx_that_fails_its_gate_takes_its_wave_back(fleet: Fleet, fault: str, words: str) -> None:
    for name in ("web1", "web3"):
        fleet.serve(name, NGINX)
    fleet.fault("web3", fault)
    done = fleet.playbook("rollout", "-e", f"@{fleet.plan(1, 2, 1)}")
    assert done.returncode != 0
    assert words in done.stdout, done.stdout
    assert fleet.states() == {"web1": "tx+rx", "web2": "userspace", "web3": "userspace", "web4": "userspace"}
    assert fleet.requests("web4", "order") == []


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_a_consent_that_was_taken_away_since_the_plan_stops_it(fleet: Fleet) -> None:
    fleet.serve("web2", NGINX)
    plan = fleet.plan(2)
    fleet.serve("web2", refusing(NGINX, "tx_rx"))
    done = fleet.playbook("rollout", "-e", f"@{plan}")
    assert done.returncode != 0
    assert "phase tx would be tx+rx with nginx.service" in done.stdout, done.stdout
    assert set(fleet.states().values()) == {"userspace"}


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_another_server_than_was_planned_is_drift(fleet: Fleet) -> None:
    fleet.serve("web2", NGINX)
    plan = fleet.plan(2)
    fleet.serve("web2", {**NGINX, "version": "1.28.0"})
    done = fleet.playbook("rollout", "-e", f"@{plan}")
    assert "program was nginx 1.26.3, is nginx 1.28.0" in done.stdout, done.stdout
    assert fleet.requests("web2", "order") == []


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_a_rollout_without_a_plan_asks_nothing_of_a_host_that_nobody_may_judge(fleet: Fleet) -> None:
    quick = ("-e", "ktls_phase=tx", "-e", f"ktls_waves_file={Path(__file__).with_name('waves.yml')}")
    fleet.serve("web2", SERVICE)
    done = fleet.playbook("rollout", *quick)
    assert done.returncode != 0
    assert "web2: nobody counts failures" in done.stdout and "ktls plan" in done.stdout, done.stdout
    fleet.serve("web2", refusing(NGINX, "tx_rx"))
    assert "hands both directions to the kernel or none" in fleet.playbook("rollout", *quick).stdout
    assert [fleet.requests(name, "order") for name in fleet.names] == [[], []]
    fleet.serve("web2", NGINX)
    assert fleet.playbook("rollout", *quick).returncode == 0
    assert fleet.states() == {"web1": "tx", "web2": "tx+rx"}


@pytest.mark.parametrize("fleet", [3], indirect=True)
def test_off_tells_of_old_processes_and_of_those_that_nobody_may_restart(fleet: Fleet) -> None:
    fleet.serve("web2", NGINX)
    fleet.serve("web3", SERVICE)
    fleet.serve("web3", refusing(SERVICE, "restart"))
    fleet.fault("web3", "stale")
    done = fleet.ktls("off", "-i", str(fleet.inventory), "--no-publish")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "web1: off" in done.stdout and "web2: off" in done.stdout
    assert "web3: configuration off, 2 processes keep kTLS until restart: systemctl restart lighttpd" in done.stdout
    assert "2 old processes keep kTLS until somebody restarts them" in done.stdout, done.stdout
    said = json.loads(fleet.ktls("off", "-i", str(fleet.inventory), "--no-publish", "--json").stdout)
    assert (said["hosts"]["web3"]["code"], said["hosts"]["web3"]["flag"]) == ("restart_needed", True)
    assert (said["hosts"]["web2"]["datapath"], said["hosts"]["web2"]["off"]) == ("nginx", True)
    assert fleet.peek("web3")["off"]["flag"], "nothing new is switched on there"
    books = fleet.playbook("off", "-e", "ktls_off_command=true")
    assert books.returncode != 0
    assert "configuration off, 2 processes keep kTLS until restart" in books.stdout, books.stdout
    (fleet.directory / "web3" / "stale").unlink()
    assert fleet.ktls("off", "-i", str(fleet.inventory), "--no-publish").returncode == 0


@pytest.mark.parametrize("fleet", [3], indirect=True)
def test_a_drill_of_another_datapath_asks_its_agent_and_is_kept_with_its_name(
    fleet: Fleet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path / "state"))
    fleet.serve("web1", NGINX)
    fleet.serve("web2", refusing(NGINX, "tx_rx"))
    fleet.serve("web3", refusing(SERVICE, "restart"))
    done = fleet.playbook("drill", "-e", "ktls_drill_keyupdate=false")
    assert done.returncode != 0
    for words in ("look: phase tx would be tx+rx with nginx.service", "look: a drill restarts lighttpd.service twice"):
        assert words in done.stdout, done.stdout
    kept = record.load(tmp_path / "state" / fleet_name(str(fleet.inventory), "ktls_hosts"))
    # Behind web1 is no kernel TLS either: this machine's counters do not move, and its order was taken back.
    assert {name: one["code"] for name, one in kept.items()} == {"web1": "drill_enable"}, "nothing of the others"
    assert (kept["web1"]["host"]["datapath"], kept["web1"]["means"]) == ("nginx nginx.service", "tx+rx")
    assert fleet.requests("web2", "order") == fleet.requests("web3", "order") == []
    assert set(fleet.states().values()) == {"userspace"}


@pytest.mark.parametrize("fleet", [4], indirect=True)
@pytest.mark.parametrize("earlier", ["revert", "hold"])
def test_an_earlier_wave_that_turned_bad_goes_back_as_one_unless_it_is_to_hold(fleet: Fleet, earlier: str) -> None:
    fleet.serve("web2", NGINX)
    plan = fleet.plan(2, 1, 1, earlier=earlier, soak=Soak(2.0, 5.0, 0, 100_000))
    with fleet.started("apply", str(plan)) as run:
        fleet.wait_for("soak_started", wave=2)
        fleet.fault("web1", "hash")
        said = run.communicate(timeout=120)[0]
    assert run.returncode == 1, said
    assert "web1: wave 1: probe: content hash differs" in said, said
    states = fleet.states()
    assert (states["web3"], fleet.requests("web4", "order")) == ("userspace", [])
    if earlier == "hold":
        assert (states["web1"], states["web2"]) == ("tx", "tx+rx")
        return
    assert (states["web1"], states["web2"]) == ("userspace", "userspace"), "an earlier wave goes back as one"
    assert "wave 1 is not well any more" in said and "goes back too: web1, web2" in said, said
    reverted = [event["host"] for event in fleet.events() if event["event"] == "host_reverted" and event["ok"]]
    assert reverted == ["web3", "web1", "web2"]
