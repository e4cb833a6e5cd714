# SPDX-License-Identifier: Apache-2.0
"""What one host does on its worst day."""

from __future__ import annotations

import time

from .fleet import Deployed


def new_connection_is_ktls(deployed: Deployed, host: str) -> bool:
    """Whether a download that starts now is sent by the kernel: read from its counter, not from our own code."""
    script = (
        "before=$(awk '$1 == \"TlsTxSw\" {print $2}' /proc/net/tls_stat); "
        "name=$(hostname -f); "
        'curl -sS -o /dev/null --cacert /etc/ktls/tls/ca.pem --resolve "$name:8443:127.0.0.1" '
        '"https://$name:8443/medium.bin" || exit 1; '
        "after=$(awk '$1 == \"TlsTxSw\" {print $2}' /proc/net/tls_stat); echo $((after - before))"
    )
    done = deployed.lab.ssh(host, script)
    assert done.returncode == 0, done.stderr
    return int(done.stdout) > 0


def test_off_works_when_the_agent_is_dead(deployed: Deployed) -> None:
    epoch = deployed.settle(["web1"])
    assert deployed.order("web1", "tx", epoch + 1, identity="dead-agent")["ok"]
    assert new_connection_is_ktls(deployed, "web1")
    deployed.lab.ssh("web1", "systemctl kill --signal=SIGKILL ktls-agent; systemctl stop ktls-agent")
    try:
        assert deployed.lab.ssh("web1", "ktls-off").returncode == 0
        assert not new_connection_is_ktls(deployed, "web1")
    finally:
        deployed.lab.ssh("web1", "systemctl start ktls-agent")
    deployed.wait("the agent answers", lambda: deployed.agent("web1", "status")["ok"], 30)
    status = deployed.agent("web1", "status")
    assert (status["phase"], status["off"]["flag"], status["order"]) == ("userspace", True, "reverted")


def test_off_works_on_a_full_disk(deployed: Deployed) -> None:
    epoch = deployed.settle(["web1"])
    assert deployed.order("web1", "tx", epoch + 1, identity="full-disk")["ok"]
    deployed.lab.ssh("web1", "dd if=/dev/zero of=/var/tmp/fill bs=1M 2>/dev/null; sync")
    try:
        assert deployed.lab.ssh("web1", "ktls-off").returncode == 0
        assert not new_connection_is_ktls(deployed, "web1")
        assert deployed.agent("web1", "status")["phase"] == "userspace"
    finally:
        deployed.lab.ssh("web1", "rm -f /var/tmp/fill")


def test_the_flag_switches_within_a_second(deployed: Deployed) -> None:
    epoch = deployed.settle(["web1"])
    assert deployed.order("web1", "tx", epoch + 1, identity="flag")["ok"]
    # Measured on the host: from the appearance of the flag to the sidecar's own word, asked without our client.
    script = (
        "import json, socket, time\n"
        "def mode():\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect('/run/ktls-sidecar/control.sock')\n"
        "    s.sendall(b'{\"verb\":\"status\"}\\n'); return json.loads(s.makefile().readline())['mode']\n"
        "assert mode() == 'tx'\n"
        "open('/run/ktls/off', 'w').close(); start = time.monotonic()\n"
        "while mode() != 'userspace': assert time.monotonic() - start < 10; time.sleep(0.02)\n"
        "print(time.monotonic() - start)\n"
    )
    done = deployed.lab.ssh("web1", ["python3", "-c", script])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.0, "the agent switches the sidecar within one second"


def test_an_order_that_nobody_confirms_reverts(deployed: Deployed) -> None:
    epoch = deployed.settle(["web1"])
    # Long enough for an emulated CPU under load to apply it: helpers, and a self-test.
    status = deployed.order("web1", "tx", epoch + 1, lease_s=30, identity="unconfirmed")
    assert status["order"] == "pending", status
    time.sleep(max(0.0, status["lease_left_s"]) + 1.5)
    status = deployed.agent("web1", "status")
    assert (status["order"], status["phase"]) == ("reverted", "userspace")
    assert not new_connection_is_ktls(deployed, "web1")


def test_older_epochs_and_strangers_are_refused(deployed: Deployed) -> None:
    epoch = deployed.settle(["web1"])
    assert deployed.order("web1", "userspace", epoch + 5, identity="new")["ok"]
    stale = deployed.order("web1", "tx", epoch + 4, identity="old")
    assert (stale["ok"], stale["error"]["code"]) == (False, "stale_epoch")
    done = deployed.lab.ssh("web1", "setpriv --reuid=nobody --clear-groups ktls-agent off --reason x; echo $?")
    assert done.stdout.strip().endswith(("1", "3")), "a stranger cannot even connect"
    assert deployed.agent("web1", "status")["off"]["flag"] is False


def test_power_cut_keeps_what_was_confirmed_and_drops_what_was_not(deployed: Deployed) -> None:
    epoch = deployed.settle(["web2", "web3"])
    for host in ("web2", "web3"):
        assert deployed.order(host, "tx", epoch + 1, lease_s=600, identity="power")["order"] == "pending"
    assert deployed.agent("web2", "confirm", "--id", "power", "--epoch", str(epoch + 1))["order"] == "committed"
    deployed.lab.fault("web2", "power-cut")
    deployed.lab.fault("web3", "power-cut")
    for host in ("web2", "web3"):
        deployed.lab.fault(host, "reboot")
    deployed.wait("web2 is on tx again", lambda: deployed.status()["web2"].get("phase") == "tx", 60)
    assert new_connection_is_ktls(deployed, "web2")
    deployed.wait("web3 answers again", lambda: "phase" in deployed.status()["web3"], 60)
    status = deployed.status()["web3"]
    assert (status["phase"], status["order"], status["epoch"]) == ("userspace", "reverted", epoch + 1)
    assert not new_connection_is_ktls(deployed, "web3")
