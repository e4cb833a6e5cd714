# SPDX-License-Identifier: Apache-2.0
"""A guard trips on a real host, is latched, and leaves proof; the doctor tells a healthy host from an ill one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .. import deployed as deployed_hosts
from ..conftest import StartLab
from ..fleet.fleet import Deployed, new_connection_is_ktls

HOST = "web1"
OBJECT = "/srv/ktls/ktls-probe.bin"
#: Guards that look and probe often enough for a test, and are else as they are shipped.
QUICK = {"interval_s": 2, "probe_interval_s": 4}


@pytest.fixture(scope="module")
def guarded(start_lab: StartLab) -> Iterator[Deployed]:
    """One host with agent and sidecar, in userspace; the guards as the role configures them."""
    fleet = deployed_hosts.start(start_lab, "guards")
    done = fleet.run(
        "ansible-playbook", "-i", "inventory/lab", "playbooks/deploy.yml",
        "-e", json.dumps({"ktls_agent_guards": QUICK}),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    yield fleet
    fleet.lab.down()


def sh(fleet: Deployed, command: str) -> str:
    done = fleet.lab.ssh(HOST, command, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def doctor(fleet: Deployed) -> dict[str, Any]:
    """What it says, by cause."""
    told = json.loads(fleet.lab.ssh(HOST, "ktls-agent doctor --json").stdout)
    return {**told, "causes": {f["code"]: f for f in told["findings"] if f["likelihood"] != "ruled out"}}


def downloads(cipher: str) -> str:
    """A script: three downloads with this cipher suite, certificate and name verified."""
    return (
        "name=$(hostname -f); for n in 1 2 3; do"
        " printf 'GET /medium.bin HTTP/1.1\\r\\nHost: %s\\r\\nConnection: close\\r\\n\\r\\n' $name |"
        " openssl s_client -quiet -verify_quiet -verify_return_error -CAfile /etc/ktls/tls/ca.pem -tls1_3"
        f" -ciphersuites {cipher} -verify_hostname $name -servername $name -connect 127.0.0.1:8443"
        " | grep -q '^HTTP/1.1 200' || exit 1; done"
    )


def settled(fleet: Deployed, epoch: int) -> None:
    """Clear whatever was latched, and have tx ordered and confirmed anew."""
    order = f"--id o{epoch} --epoch {epoch}"
    sh(
        fleet,
        "ktls-agent clear && ktls-agent revert --reason between-tests &&"
        f" ktls-agent order {order} --phase tx --lease 600 --plan-sha256 {'0' * 64} && ktls-agent confirm {order}",
    )


def test_the_doctor_finds_nothing_on_a_healthy_host_and_the_cipher_on_an_ill_one(guarded: Deployed) -> None:
    settled(guarded, 1)
    sh(guarded, downloads("TLS_AES_128_GCM_SHA256"))
    told = doctor(guarded)
    assert told["healthy"], told["causes"]
    assert told["phase"] == "tx"
    # The module of one cipher cannot be loaded: OpenSSL serves it from userspace, and nobody notices.
    rule = "/etc/modprobe.d/no-chacha.conf"
    sh(guarded, f"modprobe -r chacha20poly1305 || true; echo 'install chacha20poly1305 /bin/false' > {rule}")
    try:
        sh(guarded, downloads("TLS_CHACHA20_POLY1305_SHA256"))
        shown = guarded.lab.ssh(HOST, "ktls-agent doctor")
        print(shown.stdout)
        assert shown.returncode == 1
        assert "cipher_not_in_kernel (confirmed)" in shown.stdout
        assert "none of 3 connections with TLSv1.3 TLS_CHACHA20_POLY1305_SHA256" in " ".join(shown.stdout.split())
    finally:
        sh(guarded, f"rm {rule}")


def test_a_damaged_object_switches_off_and_leaves_proof(guarded: Deployed) -> None:
    settled(guarded, 2)
    assert new_connection_is_ktls(guarded, HOST)
    sh(guarded, f"cp -p {OBJECT} /root/kept && printf X | dd of={OBJECT} bs=1 seek=100000 conv=notrunc status=none")
    guarded.wait(
        "a guard trips", lambda: sh(guarded, "ls /var/lib/ktls/guards 2>/dev/null || true").count("trip-") == 1, 60
    )
    status = guarded.agent(HOST, "status")
    assert (status["phase"], status["guards"]["tripped"]) == ("userspace", "probe_damaged")
    assert status["off"]["reason"].startswith("guard probe_damaged: 1 self-probes that arrived damaged")
    assert not new_connection_is_ktls(guarded, HOST)
    kept = json.loads(sh(guarded, "cat /var/lib/ktls/guards/trip-*.json"))
    assert (kept["guard"], kept["order"]["id"]) == ("probe_damaged", "o2")
    assert kept["readings"][-1]["values"]["probe_damaged"] >= 1

    # Latched: over a restart, and against a new order.
    sh(guarded, f"cat /root/kept > {OBJECT}; systemctl restart ktls-agent")
    guarded.wait("the agent answers", lambda: guarded.agent(HOST, "status")["ok"], 30)
    assert guarded.agent(HOST, "status")["guards"]["tripped"] == "probe_damaged"
    refused = guarded.order(HOST, "tx", 3, identity="too-soon")
    assert refused["error"]["code"] == "off_latched"
    settled(guarded, 4)
    assert new_connection_is_ktls(guarded, HOST)


def test_the_trail_has_it_and_an_edit_is_found(guarded: Deployed) -> None:
    shown = sh(guarded, "ktls-agent audit show && ktls-agent audit verify")
    assert "guard_trip" in shown
    assert "whole: records 1 to" in shown
    # The journal, which is another user's, has the same head.
    query = "journalctl -q -o json --output-fields=KTLS_AUDIT_SHA256 MESSAGE_ID=6f1d3c0b9a5e4c7f8d2b41e07a93c5f6 -n 1"
    head = json.loads(sh(guarded, query))["KTLS_AUDIT_SHA256"]
    trail = "/var/lib/ktls/audit/audit.jsonl"
    sh(guarded, f"cp -p {trail} /root/trail; sed -i 's/probe_damaged/probe_perfect/' {trail}")
    edited = guarded.lab.ssh(HOST, "ktls-agent audit verify")
    assert edited.returncode == 1
    assert "was changed: its hash does not match" in edited.stdout
    sh(guarded, f"sed '$d' /root/trail > {trail}")
    assert "the end was cut off" in guarded.lab.ssh(HOST, "ktls-agent audit verify").stdout
    cut = guarded.lab.ssh(HOST, f"ktls-agent audit verify --anchor /nowhere --head {head}")
    assert cut.returncode == 1
    assert "the end was cut off" in cut.stdout
    assert "whole" in sh(guarded, f"cat /root/trail > {trail} && ktls-agent audit verify")
