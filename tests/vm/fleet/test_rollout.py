# SPDX-License-Identifier: Apache-2.0
"""The main job on real kernels: deploy, roll out under load, cut links, switch off."""

from __future__ import annotations

import json
import re
import subprocess
import time

import pytest

from ktls_control.playbook import PlaybookRun

from .fleet import ROOT, WAVES, Deployed

ROLLOUT = ("rollout", "--phase", "tx", "--waves", str(WAVES))


def changed(recap: str) -> dict[str, int]:
    """``changed=`` by host of a playbook's recap."""
    return {host: int(count) for host, count in re.findall(r"^(web\d)\s.*\bchanged=(\d+)", recap, re.MULTILINE)}


def test_deploy_is_idempotent_and_check_mode_knows(deployed: Deployed) -> None:
    playbook = ("ansible-playbook", "-i", "inventory/lab", "playbooks/deploy.yml")
    done = deployed.run(*playbook)
    assert done.returncode == 0, done.stdout + done.stderr
    assert changed(done.stdout) == dict.fromkeys(deployed.names, 0), done.stdout
    done = deployed.run(*playbook, "--check", "--diff", "--limit", "web1,localhost")
    assert changed(done.stdout) == {"web1": 0}, done.stdout
    done = deployed.run(*playbook, "--check", "--limit", "web1,localhost", "-e", "ktls_sidecar_root=/srv")
    assert changed(done.stdout) == {"web1": 1}, "a change of the configuration is foreseen"


def test_every_host_starts_in_userspace_and_nothing_else_listens(deployed: Deployed) -> None:
    deployed.settle()
    assert {entry["phase"] for entry in deployed.status().values()} == {"userspace"}
    listening = deployed.lab.ssh("web1", "ss -tulnH").stdout.splitlines()
    assert {line.split()[4].rsplit(":", 1)[1] for line in listening} == {"22", "8443"}


def test_preflight_is_ready_everywhere(deployed: Deployed) -> None:
    done = deployed.ktls("preflight")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 3 hosts ready for tx" in done.stdout


def test_a_host_without_the_module_is_refused_with_the_cure(deployed: Deployed) -> None:
    deployed.settle(["web3"])
    rule = "/etc/modprobe.d/no-tls.conf"
    deployed.lab.ssh("web3", f"modprobe -r tls; echo 'install tls /bin/false' > {rule}")
    try:
        done = deployed.ktls("preflight", "--limit", "web3")
        assert done.returncode == 1
        said = " ".join(done.stdout.split())
        assert "refused" in said
        assert rule in said, "the file that blocks the module is named"
        refused = deployed.ktls(*ROLLOUT, "--limit", "web3")
        assert refused.returncode == 1
        assert f"module tls is blocked by {rule}" in " ".join(refused.stdout.split())
    finally:
        deployed.lab.ssh("web3", f"rm {rule}; modprobe tls")
    assert "tls" in deployed.lab.ssh("web3", "cat /proc/sys/net/ipv4/tcp_available_ulp").stdout


def test_a_rollout_under_load_and_off_agree_with_ss(deployed: Deployed) -> None:
    deployed.settle()
    with deployed.load() as clients:
        done = deployed.ktls(*ROLLOUT)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "wave 1 tx: web1" in done.stdout
        assert "wave 2 tx: web2, web3" in done.stdout
        status, seen = deployed.status(), deployed.witness()
        for name in deployed.names:
            assert (status[name]["phase"], status[name]["order"]) == ("tx", "committed")
            witness = seen[name]
            assert witness is not None
            assert witness.tls_stat["TlsTxSw"] > 0
            assert witness.tls_stat["TlsRxSw"] == 0, "transmit only"
            assert witness.ktls_rx == 0
        assert any(witness and witness.ktls_tx for witness in seen.values())
        off = deployed.ktls("off", "--json", "--reason", "test")
        assert off.returncode == 0, off.stdout + off.stderr
        results = json.loads(off.stdout)["hosts"]
        assert all(result["off"] and result["left"] == 0 for result in results.values()), results
        after = {name: entry["bytes"]["ktls_tx"] for name, entry in deployed.status().items()}
        time.sleep(5)
        assert {name: entry["bytes"]["ktls_tx"] for name, entry in deployed.status().items()} == after
    for witness in deployed.witness().values():
        assert witness is not None
        assert (witness.ktls_tx, witness.tls_stat["TlsCurrTxSw"]) == (0, 0)
    for name, tally in clients.tallies.items():
        assert (tally.mismatches, tally.failures) == (0, []), name
        assert tally.downloads > 0, name
    refused = deployed.ktls(*ROLLOUT)
    assert refused.returncode == 1
    assert "off flag is set" in " ".join(refused.stdout.split())


def test_link_down_on_the_canary_stops_the_run_and_its_lease_takes_it_back(deployed: Deployed) -> None:
    deployed.settle()
    before = {name: deployed.agent(name, "status")["epoch"] for name in ("web2", "web3")}
    run = PlaybookRun(
        "rollout",
        str(ROOT / "inventory" / "lab"),
        {"ktls_phase": "tx", "ktls_waves_file": str(WAVES)},
        ROOT / "build" / "log" / "link-down.log",
    )
    cut = 0.0
    with pytest.MonkeyPatch.context() as patch, deployed.load("web2"):
        patch.setenv("KTLS_LAB", deployed.lab.name)
        for event in run.events():
            if event["event"] == "ok" and event["task"] == "Wave | Order" and not cut:
                assert event["host"] == "web1"
                assert event["status"]["phase"] == "tx", "the change was made"
                deployed.lab.fault("web1", "link-down")
                cut = time.monotonic()
    assert cut, run.explain()
    assert run.returncode != 0
    assert any("web1" in line and "reach" in line for line in run.explain()), run.explain()
    after = {name: deployed.agent(name, "status")["epoch"] for name in ("web2", "web3")}
    assert after == before, "wave two was never ordered"
    deployed.lab.fault("web1", "link-up")
    deployed.wait(
        "web1 reverts by its lease",
        lambda: (
            (deployed.status()["web1"].get("order"), deployed.status()["web1"].get("phase"))
            == ("reverted", "userspace")
        ),
        180,
    )
    assert "lease" in deployed.status()["web1"]["revert_reason"]


def test_an_unreachable_host_is_named_by_off_and_status(deployed: Deployed) -> None:
    deployed.settle()
    deployed.lab.fault("web2", "link-down")
    try:
        off = deployed.ktls("off")
        assert off.returncode == 1
        assert "web2: NOT confirmed off: web2 unreachable" in off.stdout
        assert "2 of 3 hosts read back on userspace TLS" in off.stdout
        status = deployed.run("fab", "status", "--json")
        assert status.returncode == 1
        assert json.loads(status.stdout)["hosts"]["web2"]["reachable"] is False
    finally:
        deployed.lab.fault("web2", "link-up")
    deployed.wait("web2 answers", lambda: deployed.status()["web2"]["reachable"], 60)
    assert deployed.run("fab", "off").returncode == 0


def test_the_playbooks_alone_do_the_same(deployed: Deployed) -> None:
    deployed.settle()
    playbook, only = ("ansible-playbook", "-i", "inventory/lab"), ("--limit", "web3,localhost")
    with deployed.load("web3"):
        waves = ("-e", f"ktls_waves_file={WAVES}")
        done = deployed.run(*playbook, "playbooks/rollout.yml", "-e", "ktls_phase=tx", *waves, *only)
        assert done.returncode == 0, done.stdout + done.stderr
        shown = deployed.run(*playbook, "playbooks/status.yml", *only)
        assert shown.returncode == 0
        assert "phase tx, order committed" in shown.stdout
        done = deployed.run(*playbook, "playbooks/rollout.yml", "-e", "ktls_off=true")
        assert done.returncode == 0, done.stdout + done.stderr
    status = deployed.status()
    assert {(entry["phase"], entry["off"]["flag"]) for entry in status.values()} == {("userspace", True)}


def test_a_port_in_use_is_one_clear_line(deployed: Deployed) -> None:
    listener = "python3 -c 'import socket,time; s=socket.create_server((\"\", 9443)); time.sleep(200)'"
    deployed.lab.ssh("web3", f"systemd-run --unit=squatter {listener}")
    try:
        done = deployed.run(
            "ansible-playbook", "-i", "inventory/lab", "playbooks/deploy.yml", "--limit", "web3,localhost",
            "-e", "ktls_sidecar_port=9443",
        )  # fmt: skip
        assert done.returncode != 0
        assert "9443" in done.stdout
        assert "in use" in done.stdout
        assert "Traceback" not in done.stdout
    finally:
        deployed.lab.ssh("web3", "systemctl stop squatter")
    assert deployed.ktls("deploy", "--limit", "web3").returncode == 0
    assert deployed.status()["web3"]["phase"] == "userspace"


def test_ansible_refuses_a_changed_host_key(deployed: Deployed) -> None:
    config = deployed.lab.ssh_config.read_text()
    assert "StrictHostKeyChecking yes" in config
    done = subprocess.run(
        ["ssh", "-F", str(deployed.lab.ssh_config), "-o", "HostKeyAlias=web1", "web2", "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 255
    assert "IDENTIFICATION HAS CHANGED" in done.stderr


def test_receive_where_this_kernel_can(deployed: Deployed) -> None:
    """Last: others look for receive counters that never moved."""
    deployed.settle()
    with deployed.load() as clients:
        done = deployed.ktls("rollout", "--phase", "rx", "--waves", str(WAVES), "--limit", "web3")
        assert done.returncode == 0, done.stdout + done.stderr
        status, witness = deployed.status()["web3"], deployed.witness()["web3"]
        assert (status["phase"], status["order"]) == ("rx", "committed")
        assert witness is not None
        assert witness.tls_stat["TlsRxSw"] > 0
        assert deployed.ktls("off", "--limit", "web3").returncode == 0
    for name, tally in clients.tallies.items():
        assert (tally.mismatches, tally.failures) == (0, []), name
