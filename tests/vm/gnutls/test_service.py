# SPDX-License-Identifier: Apache-2.0
"""A server with GnuTLS as a datapath: switched where the library can do it, refused where it cannot.

It speaks no HTTP, so the agent's self-tests are handshakes; what is served is hashed here. The witnesses are ss and
/proc/net/tls_stat, as in the tests of the library alone.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from ..fleet.fleet import Deployed
from ..service.test_service import CONSENT
from .conftest import REBUILT, SERVICE_CONFIG, STOCK, UNIT, UNIT_PORT, Hosts

VARIABLES = {
    "ktls_datapath": "service",
    "ktls_service_unit": UNIT,
    "ktls_service_port": UNIT_PORT,
    "ktls_service_server_name": "localhost",
    "ktls_service_ca_file": "/etc/ktls-test/pki/ca-cert.pem",
    "ktls_tx_rx_consent": True,
    "ktls_restart_ok": True,
}
# The unit and what decides about its library: by hash, with mode and owner. Agent and helpers are not looked at.
ETC = r"""cd /etc; for top in systemd/system gnutls ktls-fleet; do [ -e $top ] && find $top; done \
  | grep -v -e '/ktls-[^t]' -e 'wants$' | sort | while read -r path; do
  stat -c '%n %a %u:%g %N' "$path"; [ -d "$path" ] || [ -h "$path" ] || sha256sum "$path"; done"""
PROGRAM = "/usr/bin/gnutls-serv"
SERVED_BYTES = 60 * 401
Json = dict[str, Any]


def shell(hosts: Hosts, host: str, script: str) -> str:
    done = hosts.lab.ssh(host, script, timeout=150)
    assert done.returncode == 0, f"{host}: {done.stdout}{done.stderr}"
    return done.stdout


def served(hosts: Hosts, host: str) -> Json:
    """One connection, whose content is what it should be."""
    found: Json = hosts.json(host, "served", str(UNIT_PORT))
    assert (found["same"], found["bytes"]) == (True, SERVED_BYTES), found
    return found


def assert_ktls(hosts: Hosts) -> None:
    """In the kernel in both directions; the counters may count a self-test of the agent, too."""
    found = served(hosts, REBUILT)
    assert (found["tx"], found["rx"]) == ("sw", "sw"), found
    assert found["tls_stat"]["TlsTxSw"] >= 1 and found["tls_stat"]["TlsRxSw"] >= 1, found
    assert set(found["tls_stat"]) <= {"TlsTxSw", "TlsRxSw", "TlsCurrTxSw", "TlsCurrRxSw"}, "an error or a rekey"


def assert_userspace(hosts: Hosts, host: str) -> None:
    found = served(hosts, host)
    assert (found["tx"], found["rx"], found["tls_stat"]) == (None, None, {}), found


def wait_until_it_listens(hosts: Hosts, host: str) -> None:
    """The unit is Type=simple: systemd calls it started before it listens."""
    shell(hosts, host, f"timeout 60 sh -c 'until ss -Htln sport = :{UNIT_PORT} | grep -q .; do sleep 0.5; done'")


def main_pid(hosts: Hosts, host: str) -> str:
    return shell(hosts, host, f"systemctl show --property=MainPID --value {UNIT}").strip()


def switched_on(hosts: Hosts, fleet: Deployed, identity: str, epoch: int) -> None:
    """Order tx, look from outside, confirm."""
    answer = fleet.order(REBUILT, "tx", epoch, lease_s=120, identity=identity)
    assert answer["ok"], answer
    probe = answer["probe"]
    assert (answer["ordered_phase"], answer["phase"]) == ("tx", "tx+rx"), "GnuTLS takes both directions or none"
    assert (probe["ktls_tx"], probe["ktls_rx"]) == (True, True), probe
    assert (probe["ok"], probe["sha256_ok"]) == (True, None), "a handshake shows no content, and does not say so"
    assert_ktls(hosts)
    assert fleet.agent(REBUILT, "confirm", "--id", identity, "--epoch", str(epoch))["order"] == "committed"


def copy_program(hosts: Hosts) -> None:
    """Give the host with Debian's own library the program: of the same source, it needs that library and libc alone."""
    program = subprocess.run(
        hosts.lab.ssh_argv(REBUILT, f"cat {PROGRAM}"), stdout=subprocess.PIPE, check=True, timeout=60
    ).stdout
    put = hosts.lab.ssh_argv(STOCK, f"cat >{PROGRAM} && chmod 755 {PROGRAM}")
    subprocess.run(put, input=program, check=True, timeout=60)


@pytest.fixture(scope="module")
def found(hosts: Hosts) -> dict[str, str]:
    """What is in /etc before anything of ours is there; gnutls-serv serves."""
    copy_program(hosts)
    before = {}
    for host in (REBUILT, STOCK):
        shell(hosts, host, f"systemctl start {UNIT}")
        wait_until_it_listens(hosts, host)
        before[host] = shell(hosts, host, ETC)
    return before


@pytest.fixture(scope="module")
def fleet(hosts: Hosts, found: dict[str, str]) -> Iterator[Deployed]:
    """Return both hosts, deployed with gnutls-serv as their datapath."""
    deployed = Deployed(hosts.lab)
    done = deployed.run("ansible-playbook", "playbooks/deploy.yml", "-e", json.dumps(VARIABLES), timeout_s=600)
    assert done.returncode == 0, done.stdout + done.stderr
    yield deployed
    for host in (REBUILT, STOCK):
        hosts.lab.ssh(host, ["systemctl", "stop", UNIT, "ktls-agent"])


def test_it_is_in_userspace_once_it_is_taken(hosts: Hosts, fleet: Deployed) -> None:
    status = fleet.agent(REBUILT, "status")
    datapath = status["datapath"]
    assert (datapath["kind"], datapath["unit"], datapath["program"]) == ("service", UNIT, PROGRAM)
    assert (datapath["modes"], datapath["switch"]) == (["userspace", "tx+rx", "rx"], "restart")
    assert (status["phase"], datapath["problem"]) == ("userspace", None)
    assert_userspace(hosts, REBUILT)


def test_it_is_switched_on_and_off(hosts: Hosts, fleet: Deployed) -> None:
    pid = main_pid(hosts, REBUILT)
    switched_on(hosts, fleet, "first", 1)
    on = main_pid(hosts, REBUILT)
    assert on != pid
    fleet.agent(REBUILT, "off", "--reason", "test")
    fleet.wait("userspace", lambda: fleet.agent(REBUILT, "status")["phase"] == "userspace", 90)
    wait_until_it_listens(hosts, REBUILT)
    assert main_pid(hosts, REBUILT) != on
    assert_userspace(hosts, REBUILT)
    assert fleet.agent(REBUILT, "clear")["ok"]


def test_without_consent_off_names_what_runs_on_and_no_order_comes_through(hosts: Hosts, fleet: Deployed) -> None:
    switched_on(hosts, fleet, "second", 2)
    shell(hosts, REBUILT, CONSENT.format(given=False, word="no"))
    pid = main_pid(hosts, REBUILT)
    fleet.agent(REBUILT, "off", "--reason", "no-consent")

    def named() -> bool:
        status = fleet.agent(REBUILT, "status")
        return status["phase"] == "tx+rx" and any("runs on with kernel TLS" in text for text in status["problems"])

    fleet.wait("what runs on is named", named, 90)
    assert main_pid(hosts, REBUILT) == pid, "nobody consented to a restart"
    assert_ktls(hosts)
    shell(hosts, REBUILT, f"systemctl restart {UNIT}")
    wait_until_it_listens(hosts, REBUILT)
    assert_userspace(hosts, REBUILT)
    fleet.wait("it is seen", lambda: fleet.agent(REBUILT, "status")["phase"] == "userspace", 90)
    assert fleet.agent(REBUILT, "clear")["ok"]

    pid = main_pid(hosts, REBUILT)
    answer = fleet.order(REBUILT, "tx", 3, identity="third")
    assert answer["error"]["code"] == "no_restart_consent", answer
    assert main_pid(hosts, REBUILT) == pid
    assert_userspace(hosts, REBUILT)
    shell(hosts, REBUILT, CONSENT.format(given=True, word="yes"))


def test_debians_own_library_cannot_and_the_order_says_so(hosts: Hosts, fleet: Deployed) -> None:
    pid = main_pid(hosts, STOCK)
    answer = fleet.order(STOCK, "tx", 1, identity="first")
    assert answer["error"]["code"] == "service_library_without_ktls", answer
    assert "GnuTLS" in answer["error"]["message"]
    assert fleet.agent(STOCK, "status")["phase"] == "userspace"
    assert main_pid(hosts, STOCK) == pid, "nothing was tried on it"
    assert "absent" in shell(hosts, STOCK, f"test -e {SERVICE_CONFIG} || echo absent")
    assert_userspace(hosts, STOCK)


def test_they_are_let_go_as_they_were_found(hosts: Hosts, fleet: Deployed, found: dict[str, str]) -> None:
    gone = f"unit={UNIT} restart_ok=true state=absent"
    done = fleet.run("ansible", "all", "-i", "inventory/lab", "-b", "-m", "ktls.fleet.ktls_service", "-a", gone)
    assert done.returncode == 0, done.stdout + done.stderr
    for host in (REBUILT, STOCK):
        wait_until_it_listens(hosts, host)
        assert shell(hosts, host, ETC) == found[host]
        assert_userspace(hosts, host)
