# SPDX-License-Identifier: Apache-2.0
"""Bytes by kTLS and userspace on a real kernel, against clients that count every byte on the wire themselves.

The host serves by the sidecar, whose mode changes; a second network namespace serves by two programs of another kind.
The clients are in a third, and say how much TCP payload went each way. The kernel counts a FIN as a byte, so that the
two may differ by one a connection and direction, and by no more.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.evidence import wire
from ktls_agent.evidence.model import Ended, Snapshot, Volume
from tests.vm import deployed as deployed_hosts
from tests.vm.conftest import StartLab
from tests.vm.fleet.fleet import Deployed

GUEST = Path(__file__).with_name("guest")
HOST = "web1"
SIDECAR, PLAIN, KTLS = 8443, 9443, 9444
SMALL, LARGE, HUGE = 20_000, 1_000_000, 4 << 20
CLOSE_NOTIFY = 24  # bytes that a client which aborts has got and not read, or read and not acknowledged (RFC 8446 6.1)
INTERVAL_S = 3.0
JSON = Any


@pytest.fixture(scope="module")
def host(start_lab: StartLab) -> Iterator[Deployed]:
    """Return a host with agent and sidecar, in userspace, and the servers and clients of this test."""
    fleet = deployed_hosts.start(start_lab, "evidence")
    set_up(fleet)
    yield fleet
    fleet.lab.down()


def set_up(fleet: Deployed) -> None:
    """Put the guest's programs and namespaces in place, and have the agent look often."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(GUEST.iterdir()):
            archive.add(path, path.name)
    unpack = (
        "tar -C /root -xf - && sh /root/setup.sh && python3 - <<'X'\n"
        "import json\n"
        "with open('/etc/ktls/agent.json') as stream: config = json.load(stream)\n"
        f"config['evidence'] = {{'interval_s': {INTERVAL_S}}}\n"
        # Without the guards' own downloads: every byte here has to be one of ours.
        "config['guards'] = {'probe_interval_s': 86400}\n"
        "with open('/etc/ktls/agent.json', 'w') as stream: json.dump(config, stream)\n"
        "X\nsystemctl stop ktls-diag.service; systemctl restart ktls-agent.service"
    )
    done = subprocess.run(
        fleet.lab.ssh_argv(HOST, unpack), input=buffer.getvalue(), capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def evidence(host: Deployed) -> Snapshot:
    done = host.lab.ssh(HOST, ["python3", "/root/evidence.py"])
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["ok"], answer
    return wire.decode(answer["evidence"])


def settled(host: Deployed) -> Snapshot:
    """Return the evidence of a time at which nothing waits for a judgement."""
    time.sleep(1)  # the notices of what has just ended are taken twice a second
    found: list[Snapshot] = []

    def nothing_waits() -> bool:
        found.append(evidence(host))
        return found[-1].held == Volume()

    host.wait("all is judged", nothing_waits, 10 * INTERVAL_S)
    return found[-1]


def load(host: Deployed, jobs: list[dict[str, JSON]], background: str = "true") -> list[dict[str, int]]:
    name = host.lab.inventory()["_meta"]["hostvars"][HOST]["ktls_sidecar_server_name"]
    jobs = [{**job, "name": job["name"] or name} for job in jobs]
    command = f"({background}) >&2 & ip netns exec client python3 /root/load.py; status=$?; wait; exit $status"
    done = subprocess.run(
        host.lab.ssh_argv(HOST, command),
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: list[dict[str, int]] = json.loads(done.stdout)
    return results


def https(address: str, connections: int, *, size: int = SMALL, requests: int = 1, **more: JSON) -> dict[str, JSON]:
    path = {SMALL: "/ev/small", LARGE: "/ev/large", HUGE: "/large.bin"}[size]
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: @\r\n\r\n"
    return {
        "address": address, "port": SIDECAR, "name": "", "ca": "/etc/ktls/tls/ca.pem", "connections": connections,
        "requests": requests, "request": request, "size": size, **more,
    }  # fmt: skip


def other(port: int, connections: int, size: int = SMALL) -> dict[str, JSON]:
    return {
        "address": "10.98.0.1", "port": port, "name": "other", "ca": "/root/other.pem", "connections": connections,
        "requests": 1, "request": str(size), "size": size, "hang_up": True,
    }  # fmt: skip


MIX = [
    https("10.99.0.1", 12),
    https("fd99::1", 8),
    https("10.99.0.1", 1, size=LARGE, requests=2, pause_s=2 * INTERVAL_S),  # a full scan sees it
    https("fd99::1", 1, requests=4, pause_s=1.0),
    https("10.99.0.1", 2, abort=True),
]


def moved(before: Snapshot, after: Snapshot, port: int) -> tuple[dict[tuple[str, str], Volume], Volume]:
    """Return what each pair of directions moved on ``port``, and the sum."""
    found: dict[tuple[str, str], Volume] = {}
    total = Volume()
    for kind, volume in after.volumes.items():
        if kind.port == port:
            old = before.volumes.get(kind, Volume())
            more = Volume(volume.sent - old.sent, volume.received - old.received)
            so_far = found.get((kind.tx, kind.rx), Volume())
            found[(kind.tx, kind.rx)] = Volume(so_far.sent + more.sent, so_far.received + more.received)
            total = Volume(total.sent + more.sent, total.received + more.received)
    return {key: volume for key, volume in found.items() if volume != Volume()}, total


def unattributed(before: Snapshot, after: Snapshot) -> Volume:
    old, new = before.unattributed, after.unattributed
    assert after.held == before.held == Volume(), "nothing waits any more"
    return Volume(new.sent - old.sent, new.received - old.received)


def ended(before: Snapshot, after: Snapshot) -> dict[str, tuple[int, int]]:
    """Return by path how many connections to the sidecar ended, and how many of them were cut."""
    found: dict[str, tuple[int, int]] = {}
    for end, now in after.ended.items():
        old = before.ended.get(end, Ended())
        if end.port == SIDECAR and now != old:
            found[end.path] = now.number - old.number, now.cut - old.cut
    return found


def check_cut(host: Deployed, before: Snapshot, path: str) -> Snapshot:
    """One connection that a full scan has seen is reset in the middle of a download: that, and no other, is cut."""
    load(host, [https("10.99.0.1", 1, size=HUGE, cut_s=2 * INTERVAL_S)])
    after = settled(host)
    assert ended(before, after) == {path: (1, 1)}
    resets = after.tcp["host"]["TcpEstabResets"] - before.tcp["host"]["TcpEstabResets"]
    assert resets >= 1
    print(f"  cut under way: {ended(before, after)}; TcpEstabResets {resets}")
    return after


def check_total(found: Volume, rest: Volume, results: list[dict[str, int]]) -> tuple[int, int]:
    """All bytes are somewhere, but for FINs and what an aborted connection did not acknowledge."""
    connections = sum(result["connections"] for result in results)
    sent = sum(result["sent"] for result in results)
    received = sum(result["received"] for result in results)
    print(f"  on the wire: {sent} sent, {received} received by {connections}; attributed {found}, not {rest}")
    unread = sum(result["aborted"] for result in results) * CLOSE_NOTIFY
    assert -unread <= found.sent + rest.sent - sent <= connections + unread
    assert 0 <= found.received + rest.received - received <= connections
    return sent, received


def switch(host: Deployed, phase: str) -> None:
    epoch = host.settle()
    assert host.order(HOST, phase, epoch + 1, lease_s=300, identity=f"to-{phase}")["order"] == "pending"
    assert host.agent(HOST, "confirm", "--id", f"to-{phase}", "--epoch", str(epoch + 1))["order"] == "committed"


def test_what_is_attributed_is_what_was_on_the_wire(host: Deployed) -> None:
    before = settled(host)
    assert len(before.namespaces) == 2, "the host's, and that of the other servers"
    assert not before.problems, before.problems

    print("\nuserspace")
    results = load(host, MIX)
    after = settled(host)
    found, total = moved(before, after, SIDECAR)
    check_total(total, unattributed(before, after), results)
    assert set(found) == {("none", "none")}
    assert after.destroyed - before.destroyed == sum(result["connections"] for result in results)
    assert unattributed(before, after) == Volume(), "no context was opened: every byte is known"
    assert sum(cut for _, cut in ended(before, after).values()) == 0, "who has got everything may leave as he likes"
    check_cut(host, after, "userspace")

    print("kernel TLS, transmit")
    switch(host, "tx")
    before = settled(host)
    results = load(host, MIX)
    after = settled(host)
    found, total = moved(before, after, SIDECAR)
    rest = unattributed(before, after)
    sent, _ = check_total(total, rest, results)
    print(f"  {found}; unattributed {rest.sent / sent:.2%}")
    assert set(found) <= {("sw", "none"), ("none", "none")}
    # The long one is seen and exact. Of the short ones as much as the counters prove, on a CPU too slow for samples.
    assert found[("sw", "none")].sent >= 2 * LARGE
    # In userspace nothing but handshakes that a dump happened to see.
    assert found.get(("none", "none"), Volume()).sent <= 10_000
    assert {kind.process for kind in after.volumes if kind.port == SIDECAR and kind.tx == "sw"} == {"ktls-sidecar"}
    assert sum(cut for _, cut in ended(before, after).values()) == 0
    after = check_cut(host, after, "ktls")

    print("another namespace, userspace")
    before = after
    results = load(host, [other(PLAIN, 5), other(PLAIN, 1, LARGE)])
    after = settled(host)
    plain, total = moved(before, after, PLAIN)
    check_total(total, unattributed(before, after), results)
    assert set(plain) == {("none", "none")} and unattributed(before, after) == Volume()

    print("another namespace, kernel TLS both ways")
    before = after
    results = load(host, [other(KTLS, 5), other(KTLS, 1, LARGE)])
    after = settled(host)
    ktls, total = moved(before, after, KTLS)
    rest = unattributed(before, after)
    sent, _ = check_total(total, rest, results)
    print(f"  {ktls}; unattributed {rest.sent / sent:.2%}")
    assert set(ktls) <= {("none", "none"), ("sw", "none"), ("sw", "sw")}
    assert ktls.get(("none", "none"), Volume()).sent <= 10_000
    assert {kind.process for kind in after.volumes if kind.port in (PLAIN, KTLS)} == {"other-plain", "other-ktls"}

    print("the mode changes in the middle")
    before = settled(host)
    back = "sleep 4; ktls-agent revert --reason test"
    results = load(host, [https("10.99.0.1", 24), https("fd99::1", 1, size=LARGE)], back)
    after = settled(host)
    found, total = moved(before, after, SIDECAR)
    rest = unattributed(before, after)
    sent, _ = check_total(total, rest, results)
    print(f"  {found}; unattributed {rest.sent / sent:.2%}")


def test_the_agent_sums_it_up_and_costs_little(host: Deployed) -> None:
    status = host.agent(HOST, "status")
    summary = status["evidence"]
    assert summary["known"] and summary["problem"] is None, summary
    assert 0 < summary["total"]["ktls_sent_share"] < 1
    assert "ktls-sidecar" in summary["total"]["cpu"]
    assert not [problem for problem in status["problems"] if "evidence" in problem], status["problems"]
    show = "systemctl show -p MainPID,MemoryCurrent,CPUUsageNSec ktls-diag.service ktls-agent.service"
    print(host.lab.ssh(HOST, f"{show}; grep VmRSS /proc/$(systemctl show -P MainPID ktls-diag)/status").stdout)


def test_a_kernel_warning_that_names_tls_is_counted(host: Deployed) -> None:
    """The kernel's own: what a program writes to its log is marked as a program's, and is none of the kernel's.

    A program called tls_noise writes so much there that the kernel complains of it by name (devkmsg_release).
    """
    before = evidence(host).kernel_warnings
    script = (
        "sysctl -qw kernel.printk_devkmsg=ratelimit; ln -sf /usr/bin/python3 /root/tls_noise; /root/tls_noise -c '\n"
        "import os\n"
        'log = os.open("/dev/kmsg", os.O_WRONLY)\n'
        'for number in range(40): os.write(log, b"<4>tls: written by a program")\n'
        "os.close(log)'; sleep 1; dmesg | tail -1"
    )
    said = host.lab.ssh(HOST, script).stdout
    assert "suppressed" in said, said
    after = evidence(host)
    assert after.kernel_warnings == before + 1
    assert "tls_noise" in after.kernel_warning


def test_without_the_helper_the_agent_says_so(host: Deployed) -> None:
    host.lab.ssh(HOST, "systemctl stop ktls-diag.socket ktls-diag.service")
    try:
        host.wait(
            "the agent complains",
            lambda: any("no evidence" in line for line in host.agent(HOST, "status")["problems"]),
            30,
        )
        assert host.agent(HOST, "status")["evidence"]["known"], "what was known stays, with its age"
    finally:
        host.lab.ssh(HOST, "systemctl start ktls-diag.socket")
