# SPDX-License-Identifier: Apache-2.0
"""A server with GnuTLS as a datapath: switched where the library can do it, refused where it cannot.

It speaks no HTTP that would do for a download, so self-tests are handshakes, and what is served is hashed here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ..fleet.fleet import Deployed
from .conftest import REBUILT, STOCK, UNIT, UNIT_PORT, Hosts
from .test_gnutls import seen

VARIABLES = {
    "ktls_datapath": "service",
    "ktls_service_unit": UNIT,
    "ktls_service_port": UNIT_PORT,
    "ktls_service_server_name": "localhost",
    "ktls_service_ca_file": "/etc/ktls-test/pki/ca-cert.pem",
    "ktls_tx_rx_consent": True,
    "ktls_restart_ok": True,
}


@pytest.fixture(scope="module")
def fleet(hosts: Hosts) -> Iterator[Deployed]:
    """Return both hosts, deployed with gnutls-serv as their datapath."""
    found = Deployed(hosts.lab)
    for host in (REBUILT, STOCK):
        done = hosts.lab.ssh(host, ["systemctl", "start", UNIT])
        assert done.returncode == 0, done.stderr
    done = found.run("ansible-playbook", "playbooks/deploy.yml", "-e", json.dumps(VARIABLES), timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    yield found
    gone = f"unit={UNIT} restart_ok=true state=absent"
    found.run("ansible", "all", "-i", "inventory/lab", "-b", "-m", "ktls.fleet.ktls_service", "-a", gone)
    for host in (REBUILT, STOCK):
        hosts.lab.ssh(host, ["systemctl", "stop", UNIT, "ktls-agent"])


def test_it_is_switched_on_and_off(hosts: Hosts, fleet: Deployed) -> None:
    status = fleet.agent(REBUILT, "status")
    assert status["datapath"]["modes"] == ["userspace", "tx+rx", "rx"], status["datapath"]
    assert "tcp-ulp" not in seen(hosts)
    answer = fleet.order(REBUILT, "tx", 1, lease_s=120, identity="first")
    assert answer["ok"], answer
    probe = answer["probe"]
    assert (answer["phase"], probe["ktls_tx"], probe["ktls_rx"]) == ("tx+rx", True, True), probe
    assert (probe["ok"], probe["sha256_ok"]) == (True, None), "a handshake shows no content, and does not say so"
    assert "tcp-ulp-tls" in seen(hosts)
    assert fleet.agent(REBUILT, "confirm", "--id", "first", "--epoch", "1")["order"] == "committed"
    fleet.agent(REBUILT, "off", "--reason", "test")
    fleet.wait("userspace", lambda: fleet.agent(REBUILT, "status")["phase"] == "userspace", 60)
    assert "tcp-ulp" not in seen(hosts)
    fleet.agent(REBUILT, "clear")


def test_debians_own_library_cannot_and_the_order_says_so(fleet: Deployed) -> None:
    answer = fleet.order(STOCK, "tx", 1, identity="first")
    assert answer["error"]["code"] == "service_library_without_ktls", answer
    assert "GnuTLS" in answer["error"]["message"]
    assert fleet.agent(STOCK, "status")["phase"] == "userspace"
