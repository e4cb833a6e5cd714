# SPDX-License-Identifier: Apache-2.0
"""The observer's pace, and what it does when something cannot be looked at."""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest

from ktls_agent.evidence import observer as module
from ktls_agent.evidence import wire
from ktls_agent.evidence.config import EvidenceConfig
from ktls_agent.evidence.model import End, Ended, Kind, Volume
from ktls_agent.evidence.namespace import Namespace
from ktls_agent.evidence.observer import DRAIN_S, Observer
from ktls_agent.evidence.serving import Found, Listeners, Listening, Process
from ktls_host.errors import KtlsError

from .world import World

HOST, OTHER = 1, 77
ANY = bytes(16)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeProcesses:
    unreadable = 0

    def __init__(self, *namespaces: int) -> None:
        self.namespaces = list(namespaces)

    def look(self) -> dict[int, Found]:
        return {n: Found(n, [Process(5 + n, 1, "web", None, n, True)]) for n in self.namespaces}

    def inodes(self, process: Process, wanted: frozenset[int]) -> frozenset[int]:
        return wanted


class FakeNamespace(Namespace):
    """A namespace whose kernel is a :class:`World`."""

    made: list[FakeNamespace] = []  # noqa: RUF012
    failing: set[int] = set()  # noqa: RUF012

    def __init__(self, inode: int, pid: int | None, probe_port: int | None = None) -> None:
        if pid is not None and inode in self.failing:
            raise KtlsError("namespace", "cannot enter")
        self.inode, self.name = inode, "host" if pid is None else str(inode)
        self.processes, self.candidates, self.owners = (), None, None
        self.listeners = Listeners()
        self.world = World()
        self.world.ledger._owner = self.listeners.owner
        self.ledger = self.world.ledger
        self.ports: tuple[int, ...] = (443,)
        self.scans: list[bool] = []
        self.closed = False
        FakeNamespace.made.append(self)

    def close(self) -> None:
        self.ledger.finish()
        self.closed = True

    @property
    def lost(self) -> int:
        return 2

    def tcp(self) -> dict[str, int]:
        return {"TcpEstabResets": 4}

    def stat(self) -> dict[str, int] | None:
        return {"TlsTxSw": self.world.opened[0]}

    def listening(self) -> dict[int, Listening]:
        return {port: Listening(port, ANY, 0) for port in self.ports}

    def drain(self, now_s: float) -> None:
        self.world.drain()

    def scan(self, now_s: float, full: bool) -> None:
        if self.inode in self.failing:
            raise KtlsError("sock_diag_failed", "the kernel does not answer")
        self.scans.append(full)
        self.world.now_s = now_s
        self.drain(now_s)
        self.world.dump(full)

    def settle(self, now_s: float) -> None:
        self.drain(now_s)
        self.ledger.settle()


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeNamespace.made, FakeNamespace.failing = [], set()
    monkeypatch.setattr(module, "Namespace", FakeNamespace)
    monkeypatch.setattr(module, "namespace_of", lambda path: HOST)


def run(observer: Observer, clock: Clock, seconds: float, each: Callable[[], object] = lambda: None) -> None:
    end = clock.now + seconds
    while True:
        wait = observer.step()
        if clock.now + wait > end:
            clock.now = end
            return
        clock.now += wait or 0.001
        each()


def start(*namespaces: int, **config: Any) -> tuple[Observer, Clock, FakeProcesses]:
    clock, processes = Clock(), FakeProcesses(*namespaces)
    observer = Observer(EvidenceConfig(**config), processes, clock=clock)  # type: ignore[arg-type]
    return observer, clock, processes


def test_full_scans_at_the_interval_and_judgements_after_each() -> None:
    observer, clock, _ = start(HOST)
    run(observer, clock, 30.5)
    host = FakeNamespace.made[0]
    assert host.scans == [True] * 4, "nothing was missed, so no small scan was made"
    assert not host.ledger.unsettled


def test_short_connections_bring_small_scans() -> None:
    observer, clock, _ = start(HOST)
    world = FakeNamespace.made[0].world
    run(observer, clock, 30.5, lambda: world.short(443, 1000, 300))
    scans = FakeNamespace.made[0].scans
    assert scans.count(True) == 4
    assert 15 <= scans.count(False) <= 20, "one a second, after the first interval"
    quiet, clock, _ = start(HOST, sample_s=0)
    world = FakeNamespace.made[1].world
    run(quiet, clock, 30.5, lambda: world.short(443, 1000, 300))
    assert FakeNamespace.made[1].scans == [True] * 4


@pytest.mark.parametrize(("share", "scans"), [(0.0015, 0), (0.1, 15)])
def test_small_scans_are_fewer_where_they_are_dear(share: float, scans: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on an emulated host: 60 ms of CPU a scan."""
    spent = 0.0

    def scan(self: FakeNamespace, now_s: float, full: bool) -> None:
        nonlocal spent
        plain(self, now_s, full=full)
        spent += 0.06

    plain = FakeNamespace.scan
    monkeypatch.setattr(FakeNamespace, "scan", scan)
    monkeypatch.setattr(time, "process_time", lambda: spent)
    observer, clock, _ = start(HOST, sample_share=share)
    world = FakeNamespace.made[0].world
    run(observer, clock, 30.5, lambda: world.short(443, 1000, 300))
    assert scans <= FakeNamespace.made[0].scans.count(False) <= scans + 5


def test_a_snapshot_sums_the_namespaces_and_those_that_are_gone() -> None:
    observer, clock, processes = start(HOST, OTHER)
    host, other = FakeNamespace.made
    run(observer, clock, 1)
    for namespace, size in ((host, 1000), (other, 500)):
        namespace.world.short(443, size, 300)
    run(observer, clock, 25)
    kind = Kind(443, "web", "", "", "none", "none")
    snapshot = observer.snapshot()
    assert snapshot.volumes == {kind: Volume(1500, 600)} and snapshot.inferred == Volume(1500, 600)
    assert set(snapshot.namespaces) == {"host", "77"}
    assert (snapshot.destroyed, snapshot.lost_events, snapshot.held) == (2, 4, Volume())
    assert snapshot.ended == {End(443, "web", "unknown"): Ended(2, 0)}
    assert snapshot.tcp == {"host": {"TcpEstabResets": 4}, "77": {"TcpEstabResets": 4}}
    assert snapshot.processes[0].process == "web"
    processes.namespaces = [HOST]
    run(observer, clock, 12)
    assert other.closed
    snapshot = observer.snapshot()
    assert set(snapshot.namespaces) == {"host"}
    assert (snapshot.volumes, snapshot.destroyed, snapshot.lost_events) == ({kind: Volume(1500, 600)}, 2, 4)
    assert snapshot.ended == {End(443, "web", "unknown"): Ended(2, 0)}, "that of a namespace that is gone stays"
    assert wire.decode(json.loads(json.dumps(wire.encode(snapshot)))) == snapshot


def test_a_namespace_where_nobody_listens_is_left_and_not_entered_again() -> None:
    observer, clock, processes = start(HOST)
    before = FakeNamespace.__init__

    processes.namespaces = [HOST, OTHER]

    def silent(self: FakeNamespace, inode: int, pid: int | None, probe_port: int | None = None) -> None:
        before(self, inode, pid)
        self.ports = ()

    FakeNamespace.__init__ = silent  # type: ignore[method-assign]
    try:
        run(observer, clock, 35)
    finally:
        FakeNamespace.__init__ = before  # type: ignore[method-assign]
    assert len(FakeNamespace.made) == 2 and FakeNamespace.made[1].closed
    assert set(observer.snapshot().namespaces) == {"host"}


def test_a_namespace_that_cannot_be_entered_is_a_problem() -> None:
    FakeNamespace.failing = {OTHER}
    observer, _, _ = start(HOST, OTHER)
    problems = observer.snapshot().problems
    assert "network namespace 77: cannot enter" in problems
    assert any("kernel warnings" in problem for problem in problems), "standard input of a test is not /dev/kmsg"


def test_one_that_fails_later_is_a_problem_once() -> None:
    observer, clock, _ = start(HOST, OTHER)
    FakeNamespace.failing = {OTHER}
    run(observer, clock, 12)
    problems = [problem for problem in observer.snapshot().problems if "77" in problem]
    assert problems == ["network namespace 77: the kernel does not answer"]


def test_without_the_hosts_own_namespace_there_is_no_evidence_and_no_zero() -> None:
    FakeNamespace.failing = {HOST}
    with pytest.raises(KtlsError, match="does not answer"):
        start(HOST)
    FakeNamespace.failing = set()
    observer, clock, _ = start(HOST)
    FakeNamespace.failing = {HOST}
    run(observer, clock, 12)
    with pytest.raises(KtlsError, match="does not answer"):
        observer.snapshot()
    FakeNamespace.failing = set()
    run(observer, clock, 12)
    assert observer.snapshot().namespaces


def test_most_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_NAMESPACES", 2)
    observer, _, _ = start(HOST, 2, 3, 4)
    assert len(observer.snapshot().namespaces) == 2
    assert sum("left out" in problem for problem in observer.snapshot().problems) == 2


def test_real_connections_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole of it, on the real kernel and the real /proc, seen from another process."""
    from ktls_agent.evidence.serving import Processes, namespace_of

    monkeypatch.setattr(module, "Namespace", Namespace)
    monkeypatch.setattr(module, "namespace_of", namespace_of)
    monkeypatch.setattr(Processes, "_pids", lambda self: [os.getpid()])
    assert ssl.OPENSSL_VERSION, "this process maps libssl"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        try:
            observer = Observer(EvidenceConfig(interval_s=1))
        except KtlsError as error:
            assert error.code == "need_net_admin" and os.geteuid() != 0
            return
        for _ in range(3):
            with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0] as accepted:
                client.sendall(bytes(300))
                accepted.recv(1000)
                accepted.sendall(bytes(5000))
                client.recv(10000)
        deadline = time.monotonic() + 4
        while time.monotonic() < deadline:
            time.sleep(min(DRAIN_S, observer.step()))
            snapshot = observer.snapshot()
            ours = {kind: volume for kind, volume in snapshot.volumes.items() if kind.port == port}
            total = sum(volume.sent for volume in ours.values()) + snapshot.unattributed.sent
            if total >= 15000 and snapshot.held == Volume():
                break
        assert snapshot.destroyed >= 3 and total >= 15000
        observer.close()


def test_a_real_connection_that_is_reset_while_data_is_on_its_way_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the real kernel's notice: what it had not got rid of is still in it. A client that leaves in peace is not."""
    from ktls_agent.evidence.serving import Processes, namespace_of

    monkeypatch.setattr(module, "Namespace", Namespace)
    monkeypatch.setattr(module, "namespace_of", namespace_of)
    monkeypatch.setattr(Processes, "_pids", lambda self: [os.getpid()])
    assert ssl.OPENSSL_VERSION, "this process maps libssl"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        try:
            observer = Observer(EvidenceConfig(interval_s=1))
        except KtlsError as error:
            assert error.code == "need_net_admin" and os.geteuid() != 0
            return
        for reset in (False, True):
            with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0] as accepted:
                client.sendall(bytes(300))
                accepted.recv(1000)
                accepted.setblocking(False)
                accepted.send(bytes(1 << 24) if reset else bytes(5000))
                client.recv(10000)
                if reset:
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        deadline = time.monotonic() + 4
        found: dict[str, int] = {}
        while time.monotonic() < deadline and found.get("number", 0) < 2:
            time.sleep(min(DRAIN_S, observer.step()))
            ends = [ended for end, ended in observer.snapshot().ended.items() if end.port == port]
            found = {"number": sum(ended.number for ended in ends), "cut": sum(ended.cut for ended in ends)}
        observer.close()
        assert found == {"number": 2, "cut": 1}
