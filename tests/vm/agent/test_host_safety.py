# SPDX-License-Identifier: Apache-2.0
"""What one host does on its worst day."""

from __future__ import annotations

import json

from ..fleet.fleet import Deployed, new_connection_is_ktls
from .on_host import HOST


def on_tx(deployed: Deployed, identity: str) -> None:
    """Order kTLS transmit, and see that it is so: what is switched off in a test was on."""
    epoch = deployed.settle([HOST])
    assert deployed.order(HOST, "tx", epoch + 1, identity=identity)["ok"]
    assert new_connection_is_ktls(deployed, HOST)


def test_off_works_when_the_agent_is_dead(deployed: Deployed) -> None:
    on_tx(deployed, "dead-agent")
    deployed.lab.ssh(HOST, "systemctl kill --signal=SIGKILL ktls-agent; systemctl stop ktls-agent")
    try:
        assert deployed.lab.ssh(HOST, "ktls-off").returncode == 0
        assert not new_connection_is_ktls(deployed, HOST)
    finally:
        deployed.lab.ssh(HOST, "systemctl start ktls-agent")
    deployed.wait("the agent answers", lambda: deployed.agent(HOST, "status")["ok"], 30)
    status = deployed.agent(HOST, "status")
    assert (status["phase"], status["off"]["flag"], status["order"]) == ("userspace", True, "reverted")


def test_off_works_on_a_full_disk(deployed: Deployed) -> None:
    on_tx(deployed, "full-disk")
    deployed.lab.ssh(HOST, "dd if=/dev/zero of=/var/tmp/fill bs=1M 2>/dev/null; sync")
    try:
        assert deployed.lab.ssh(HOST, "ktls-off").returncode == 0
        assert not new_connection_is_ktls(deployed, HOST)
        assert deployed.agent(HOST, "status")["phase"] == "userspace"
    finally:
        deployed.lab.ssh(HOST, "rm -f /var/tmp/fill")


def test_the_flag_alone_switches(deployed: Deployed) -> None:
    on_tx(deployed, "flag")
    # Measured on the host: from the appearance of the flag to the sidecar's own word, asked without our client.
    script = (
        "import json, socket, time\n"
        "def mode():\n"
        "    s = socket.socket(socket.AF_UNIX); s.connect('/run/ktls-sidecar/control.sock')\n"
        "    s.sendall(b'{\"verb\":\"status\"}\\n'); return json.loads(s.makefile().readline())['mode']\n"
        "assert mode() == 'tx'\n"
        "open('/run/ktls/off', 'w').close(); start = time.monotonic()\n"
        "while mode() != 'userspace': assert time.monotonic() - start < 60; time.sleep(0.02)\n"
        "print(time.monotonic() - start)\n"
    )
    done = deployed.lab.ssh(HOST, ["python3", "-c", script])
    assert done.returncode == 0, done.stderr
    print(f"\nthe flag: the sidecar is switched after {float(done.stdout):.2f} s")


def test_an_order_that_nobody_confirms_reverts(deployed: Deployed) -> None:
    epoch = deployed.settle([HOST])
    # Long enough for an emulated CPU under load to apply it: helpers, and a self-test.
    status = deployed.order(HOST, "tx", epoch + 1, lease_s=40, identity="unconfirmed")
    assert status["order"] == "pending", status
    deployed.wait("its lease is over", lambda: deployed.agent(HOST, "status")["order"] == "reverted", 60)
    status = deployed.agent(HOST, "status")
    assert status["revert_reason"] == "lease_expired"
    assert (status["order"], status["phase"]) == ("reverted", "userspace")
    assert not new_connection_is_ktls(deployed, HOST)


def test_older_epochs_and_strangers_are_refused(deployed: Deployed) -> None:
    epoch = deployed.settle([HOST])
    assert deployed.order(HOST, "userspace", epoch + 5, identity="new")["ok"]
    stale = deployed.order(HOST, "tx", epoch + 4, identity="old")
    assert (stale["ok"], stale["error"]["code"]) == (False, "stale_epoch")
    done = deployed.lab.ssh(HOST, "setpriv --reuid=nobody --clear-groups ktls-agent off --reason x; echo $?")
    assert done.stdout.strip().endswith(("1", "3")), "a stranger cannot even connect"
    assert deployed.agent(HOST, "status")["off"]["flag"] is False


def test_off_is_read_back_from_the_kernel_when_agent_and_python_are_gone(deployed: Deployed) -> None:
    on_tx(deployed, "no-python")
    deployed.lab.ssh(HOST, "systemctl stop ktls-agent; mv /usr/bin/python3 /usr/bin/python3.away")
    try:
        done = deployed.ktls("off", "--host", HOST, "--json", "--drain", "20")
        host = json.loads(done.stdout)["hosts"][HOST]
        assert (host["off"], host["flag"], host["by"], host["left"]) == (True, True, "kernel", 0), host
        assert "the agent did not answer" in host["note"]
        assert done.returncode == 0
        assert not new_connection_is_ktls(deployed, HOST)
    finally:
        deployed.lab.ssh(HOST, "mv /usr/bin/python3.away /usr/bin/python3; systemctl start ktls-agent")
    deployed.wait("the agent answers", lambda: deployed.agent(HOST, "status")["ok"], 60)
    assert deployed.agent(HOST, "status")["off"]["flag"] is True
