# SPDX-License-Identifier: Apache-2.0
"""Clones that are hosts of their own, faults that really happen, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ktls_lab import api, process, state
from ktls_lab.paths import lab_dir

from ..conftest import PREFIX, StartLab
from .conftest import StartedLab

UP_TARGET_S = 15.0
WHO_AM_I = """
import json, os, socket, subprocess, time
run = lambda *argv: subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
print(json.dumps({
    "hostname": socket.gethostname(),
    "fqdn": run("hostname", "-f"),
    "machine_id": open("/etc/machine-id").read().strip(),
    "host_key": open("/etc/ssh/ssh_host_ed25519_key.pub").read().split()[1],
    "random": os.urandom(16).hex(),
    "addresses": [address["local"] for link in json.loads(run("ip", "-4", "-j", "addr", "show", "dev", "eth1"))
                  for address in link["addr_info"]],
    "mac": open("/sys/class/net/eth1/address").read().strip(),
    "boot_id": open("/proc/sys/kernel/random/boot_id").read().strip(),
    "journal": run("journalctl", "-q", "-n", "1", "-o", "json", "--output-fields=_HOSTNAME,_MACHINE_ID"),
    "failed": run("systemctl", "--failed", "--no-legend"),
    "time": time.time(),
}))
"""


def who(lab: api.Lab, name: str) -> dict[str, Any]:
    run = lab.ssh(name, ["python3", "-"], stdin=WHO_AM_I)
    assert run.returncode == 0, run.stderr
    facts: dict[str, Any] = json.loads(run.stdout)
    return facts


def ssh_fails(lab: api.Lab, name: str, timeout_s: int = 4) -> str:
    """Assert that a login does not come through, and return ssh's words."""
    argv = [*lab.ssh_argv(name)[:1], "-o", f"ConnectTimeout={timeout_s}", *lab.ssh_argv(name, ["true"])[1:]]
    run = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 255, f"{name} answered: {run}"
    return run.stderr


def test_up_meets_its_target(started_lab: StartedLab) -> None:
    """The target is for a machine that does nothing else: what competed for its cores before counts as delay."""
    competition = max(1.0, started_lab.load_before / (os.cpu_count() or 1))
    assert started_lab.up_s <= UP_TARGET_S * competition


def test_each_clone_is_a_host_of_its_own(lab: api.Lab) -> None:
    facts = {}
    for host in lab.hosts:
        before = time.time()
        facts[host.name] = who(lab, host.name)
        clock = facts[host.name]["time"]
        assert before - 1.0 <= clock <= time.time() + 1.0, "a restored clock is as old as the snapshot"
    assert sorted(facts) == ["web1", "web2", "web3"]
    for key in ("machine_id", "host_key", "random", "mac"):
        assert len({fact[key] for fact in facts.values()}) == 3, key
    for host in lab.hosts:
        fact = facts[host.name]
        assert (fact["hostname"], fact["fqdn"]) == (host.name, host.fqdn)
        assert (fact["machine_id"], fact["mac"], fact["addresses"]) == (host.machine_id, host.mac, [host.address])
        assert fact["failed"] == ""
        journal = json.loads(fact["journal"])
        assert (journal["_HOSTNAME"], journal["_MACHINE_ID"]) == (host.name, host.machine_id)


def test_a_wrong_host_key_is_refused(lab: api.Lab, tmp_path: Path) -> None:
    known = (lab.directory / "known_hosts").read_text(encoding="ascii").splitlines()
    swapped = [f"{known[0].split()[0]} {' '.join(known[1].split()[1:])}", *known[1:]]
    for text in ("\n".join(swapped) + "\n", ""):
        wrong = tmp_path / "known_hosts"
        wrong.write_text(text, encoding="ascii")
        argv = lab.ssh_argv("web1", ["true"])
        argv[1:1] = ["-o", f"UserKnownHostsFile={wrong}"]
        run = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert run.returncode == 255
        assert "Host key verification failed" in run.stderr
    assert lab.ssh("web1", ["true"]).returncode == 0


def test_private_network_joins_the_hosts_by_name(lab: api.Lab) -> None:
    run = lab.ssh("web1", "ping -c 1 -W 5 web2 && ping -c 1 -W 5 web3.lab.ktls.internal")
    assert run.returncode == 0, run.stdout
    assert "(192.168.150.12)" in run.stdout
    assert "(192.168.150.13)" in run.stdout


def test_nothing_gets_out_of_a_host(lab: api.Lab) -> None:
    """10.0.2.2 is QEMU's name for the control node's loopback; restrict=on must close it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            listener.accept()[0].close()  # the listener does hear
        run = lab.ssh("web1", f"curl -sS --max-time 3 http://10.0.2.2:{port}/; ip route show default")
        assert "curl: (" in run.stderr
        assert run.stdout == "", "a default route"
        with pytest.raises(TimeoutError):
            listener.accept()


def test_inventory_reaches_the_hosts_with_ansible(lab: api.Lab) -> None:
    root = Path(__file__).parents[3]
    argv = [str(Path(sys.executable).parent / "ansible"), "-i", "inventory/lab", "ktls_hosts", "-m", "ping"]
    environment = {**os.environ, "KTLS_LAB": lab.name, "ANSIBLE_HOST_KEY_CHECKING": "True"}
    run = subprocess.run(argv, cwd=root, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count("SUCCESS") == 3


def test_link_down_and_up(lab: api.Lab) -> None:
    lab.fault("web2", "link-down")
    try:
        assert not api.Lab.load(lab.name).host("web2").link
        ssh_fails(lab, "web2")
        assert lab.power("web2") == "running"
        assert lab.ssh("web1", "ping -c 1 -W 2 web2").returncode == 1
    finally:
        lab.fault("web2", "link-up")
    lab.wait_ssh("web2")
    assert lab.ssh("web1", "ping -c 1 -W 10 web2").returncode == 0


def test_freeze_and_thaw(lab: api.Lab) -> None:
    boot_id = who(lab, "web2")["boot_id"]
    lab.fault("web2", "freeze")
    try:
        assert lab.power("web2") == "frozen"
        ssh_fails(lab, "web2")
    finally:
        lab.fault("web2", "thaw")
    assert lab.power("web2") == "running"
    before = time.time()
    after = who(lab, "web2")
    assert after["boot_id"] == boot_id
    assert before - 1.0 <= after["time"] <= time.time() + 1.0, "the clock stood still for four seconds"


def test_power_cut_and_reboot_keep_the_identity(lab: api.Lab) -> None:
    before = {name: who(lab, name) for name in ("web2", "web3")}
    assert lab.ssh("web3", "echo synced > /root/synced && sync && echo lost > /root/lost").returncode == 0
    lab.fault("web3", "power-cut")
    assert lab.power("web3") == "off"
    assert "Connection refused" in ssh_fails(lab, "web3")
    with pytest.raises(api.LabError, match="web3 is off: 'ktls lab fault web3 reboot"):
        lab.fault("web3", "freeze")
    with (
        socket.create_server(("127.0.0.1", lab.ssh_port("web3"))),
        pytest.raises(api.LabError, match="another program took its port"),
    ):
        lab.fault("web3", "reboot")
    with ThreadPoolExecutor(2) as pool:  # web3 was off and boots; web2 runs and is reset
        list(pool.map(lambda name: api.Lab.load(lab.name).fault(name, "reboot"), ("web3", "web2")))
    for name, old in before.items():
        new = who(lab, name)
        assert new["boot_id"] != old["boot_id"], f"{name} did not boot"
        for key in ("hostname", "fqdn", "machine_id", "host_key", "addresses", "mac"):
            assert new[key] == old[key], key
        assert abs(new["time"] - time.time()) < 5.0
    assert lab.ssh("web3", "cat /root/synced; cat /root/lost").stdout == "synced\n"
    assert lab.ssh("web2", "ping -c 1 -W 5 web3").returncode == 0


def test_unknown_host_and_fault_change_nothing(lab: api.Lab) -> None:
    with pytest.raises(api.LabError, match="it has web1, web2, web3"):
        lab.fault("web9", "freeze")
    with pytest.raises(api.LabError, match="choose one of link-down"):
        lab.fault("web1", "explode")
    assert lab.power("web1") == "running"


def test_two_labs_side_by_side(lab: api.Lab, start_lab: StartLab) -> None:
    second = start_lab("second", hosts=1)
    assert {second.ssh_port("web1"), second.https_port("web1")}.isdisjoint(
        {port for host in lab.hosts for port in (host.ssh_port, host.https_port)}
    )
    assert who(second, "web1")["machine_id"] != who(lab, "web1")["machine_id"]
    # 192.168.150.12 is in the first lab only: the second one's network must not lead there.
    assert lab.ssh("web1", "ping -c 1 -W 5 192.168.150.12").returncode == 0
    assert second.ssh("web1", "ping -c 1 -W 2 192.168.150.12").returncode == 1
    run_dir = Path(state.load(second.name).run_dir)
    assert run_dir.is_dir()
    second.down()
    assert_nothing_left(second.name, run_dir)
    assert lab.ssh("web1", ["true"]).returncode == 0


def assert_nothing_left(name: str, run_dir: Path | None) -> None:
    assert process.qemu_using(lab_dir(name)) == []
    assert not lab_dir(name).exists()
    if run_dir is not None:
        assert not run_dir.exists()


@pytest.fixture
def crash_name() -> Iterator[str]:
    name = f"{PREFIX}-crash"
    yield name
    api.down(name)


@pytest.mark.parametrize("moment", ["claimed", "vm started"])
def test_down_after_the_command_was_killed(started_lab: StartedLab, crash_name: str, moment: str) -> None:
    """``started_lab`` makes sure that image and snapshot are there, so that the command goes straight to the VMs."""
    argv = [sys.executable, "-m", "ktls_lab", "up", "--name", crash_name, "--hosts", "2"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as command:
        deadline = time.monotonic() + 30.0
        while True:
            running = process.qemu_using(lab_dir(crash_name))
            if running or (moment == "claimed" and state.exists(crash_name)):
                break
            assert time.monotonic() < deadline, f"never came to '{moment}'"
            assert command.poll() is None, "the command ended by itself"
            time.sleep(0.01)
        command.send_signal(signal.SIGKILL)
    run_dir = Path(state.load(crash_name).run_dir)
    with pytest.raises(api.LabError, match="is already there: 'ktls lab down"):
        api.up(crash_name, 1)
    assert api.down(crash_name) is True
    assert_nothing_left(crash_name, run_dir)
    assert api.down(crash_name) is False


def test_interrupted_up_cleans_up_by_itself(started_lab: StartedLab, crash_name: str) -> None:
    argv = [sys.executable, "-m", "ktls_lab", "up", "--name", crash_name, "--hosts", "2"]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as command:
        deadline = time.monotonic() + 30.0
        while not process.qemu_using(lab_dir(crash_name)):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        run_dir = Path(state.load(crash_name).run_dir)
        command.send_signal(signal.SIGTERM)
        _, words = command.communicate(timeout=60)
    assert command.returncode == 130
    assert "ktls lab: interrupted" in words
    assert_nothing_left(crash_name, run_dir)
