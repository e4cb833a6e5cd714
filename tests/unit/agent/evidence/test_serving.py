# SPDX-License-Identifier: Apache-2.0
"""Who serves, found in a /proc made of files and in the real one; and what it used."""

from __future__ import annotations

import os
import socket
import ssl
import struct
import sys
import time
from pathlib import Path

import pytest

from ktls_agent.evidence.config import EvidenceConfig
from ktls_agent.evidence.serving import (
    Listeners,
    Listening,
    Process,
    Processes,
    choose,
    namespace_of,
    parse_stat,
    plain_address,
    socket_groups,
    unit_cgroup,
)
from ktls_agent.evidence.usage import Usage

ANY = bytes(16)
V4 = bytes([192, 0, 2, 1]).ljust(16, b"\0")
MAPPED = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1])
SSL = "7f0000000000-7f0000001000 r-xp 00000000 08:01 1 /usr/lib/libssl.so.3\n"


class Proc:
    """A /proc in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def add(
        self,
        pid: int,
        *,
        maps: str = "",
        unit: str | None = None,
        program: str = "nginx",
        start: int = 100,
        ticks: tuple[int, int, int, int] = (0, 0, 0, 0),
        namespace: int = 4026531840,
        sockets: tuple[int, ...] = (),
    ) -> None:
        base = self.root / str(pid)
        (base / "ns").mkdir(parents=True, exist_ok=True)
        (base / "fd").mkdir(exist_ok=True)
        fields = ["S", "1", *["0"] * 9, *map(str, ticks), "20", "0", "1", "0", str(start), "0"]
        (base / "stat").write_text(f"{pid} (a (b) c) {' '.join(fields)}\n")
        (base / "maps").write_text(maps)
        path = f"/system.slice/{unit}" if unit else "/user.slice/x.scope"
        (base / "cgroup").write_text(f"0::{path}\n")
        links = (("exe", f"/usr/sbin/{program}"), ("ns/net", f"net:[{namespace}]"), ("fd/99", "/dev/null"))
        for link, target in links:
            if not (base / link).is_symlink():
                (base / link).symlink_to(target)
        for number, inode in enumerate(sockets):
            (base / "fd" / str(number)).symlink_to(f"socket:[{inode}]")


@pytest.fixture
def proc(tmp_path: Path) -> Proc:
    return Proc(tmp_path)


def look(proc: Proc, **config: object) -> dict[int, list[tuple[int, str]]]:
    found = Processes(EvidenceConfig(**config), str(proc.root)).look()  # type: ignore[arg-type]
    return {inode: [(process.pid, process.name) for process in place.processes] for inode, place in found.items()}


def test_programs_with_a_tls_library_by_namespace(proc: Proc) -> None:
    proc.add(10, maps=SSL, unit="nginx.service")
    proc.add(11, maps=SSL, program="haproxy (deleted)", namespace=77)
    proc.add(12, program="sshd")
    proc.add(1, maps=SSL)
    assert look(proc) == {4026531840: [(10, "nginx")], 77: [(11, "haproxy")]}
    assert look(proc, processes=("sshd",))[4026531840] == [(10, "nginx"), (12, "sshd")]
    assert look(proc, ports=(22,))[4026531840] == [(10, "nginx"), (12, "sshd")], "anybody may be behind that port"


def test_a_library_that_is_loaded_late_is_seen_and_a_new_process_is_another(proc: Proc) -> None:
    proc.add(10, program="python3")
    processes = Processes(EvidenceConfig(), str(proc.root))
    assert processes.look() == {}
    proc.add(10, maps=SSL, program="python3")
    assert processes.look()
    proc.add(10, start=999, program="python3")
    assert processes.look() == {}, "the same id, another process"


def process(
    pid: int,
    name: str = "web",
    maps_tls: bool = True,
    cgroup: str | None = None,
    start: int = 100,
    groups: tuple[int, ...] = (),
) -> Process:
    return Process(pid, start, name, cgroup, 1, maps_tls, frozenset(groups))


def chosen(
    listening: dict[int, Listening],
    processes: list[Process],
    sockets: dict[int, set[int]],
    config: EvidenceConfig = EvidenceConfig(),  # noqa: B008
) -> list[tuple[int, int]]:
    def held(process: Process, wanted: frozenset[int]) -> frozenset[int]:
        return frozenset(sockets.get(process.pid, set()) & wanted)

    return sorted((port, owner.pid) for port, _, owner in choose(listening, processes, config, held))


def test_the_one_that_maps_the_library_serves_not_the_one_that_keeps_the_socket() -> None:
    sockets = {5: {500, 501}, 6: {500}, 7: {502}}
    listening = {500: Listening(443, ANY, 0), 501: Listening(80, ANY, 0), 502: Listening(9000, V4, 0)}
    processes = [process(5, "keeper", False), process(6, "web"), process(7, "app", False)]
    assert chosen(listening, processes, sockets) == [(443, 6)]
    config = EvidenceConfig(ports=(80,), processes=("app",))
    assert chosen(listening, processes, sockets, config) == [(80, 5), (443, 6), (9000, 7)]


def test_the_control_group_tells_whose_socket_it_is() -> None:
    """Descriptors of other users cannot be read: only the group is left."""
    listening = {1: Listening(443, ANY, 70), 2: Listening(8443, ANY, 80), 3: Listening(22, ANY, 90)}
    processes = [process(5, "web", groups=(70, 71)), process(6, "web", groups=(70,)), process(7, "app", groups=(80,))]
    assert chosen(listening, processes, {}) == [(443, 5), (8443, 7)]


def test_two_programs_in_one_group_are_told_apart_by_descriptors() -> None:
    listening = {1: Listening(443, ANY, 70)}
    processes = [process(5, "curl", groups=(70,)), process(6, "server", groups=(70,))]
    assert chosen(listening, processes, {6: {1}}) == [(443, 6)]
    assert chosen(listening, processes, {}) == [(443, 5)], "better one of them than nobody"


def test_groups_that_open_sockets_for_a_process() -> None:
    text = "0::/system.slice/web.service/a/b\n"
    assert socket_groups(text, "/system.slice/web.service") == [
        "/system.slice/web.service/a/b",
        "/system.slice/web.service/a",
        "/system.slice/web.service",
        "/system.slice/web.socket",
    ]
    assert socket_groups("0::/user.slice/session-1.scope\n", None) == ["/user.slice/session-1.scope"]
    assert socket_groups("0::/\n", None) == socket_groups("1:cpu:/x\n", None) == [], "the root says nothing"


def test_ids_of_groups_are_those_of_their_directories(proc: Proc, tmp_path: Path) -> None:
    group = tmp_path / "cg/system.slice/web.service"
    group.mkdir(parents=True)
    proc.add(10, maps=SSL, unit="web.service")
    found = Processes(EvidenceConfig(), str(proc.root), str(tmp_path / "cg")).look()
    assert found[4026531840].processes[0].groups == {group.stat().st_ino}


def test_owner_by_port_and_where_two_share_one_by_address() -> None:
    listeners = Listeners()
    assert listeners.set([(443, ANY, "web"), (443, V4, "web"), (8443, V4, "one"), (8443, ANY, "rest")])
    assert not listeners.set([(443, ANY, "web"), (8443, V4, "one"), (8443, ANY, "rest")]), "nothing changed"
    assert listeners.owner(443, socket.AF_INET, V4) == "web"
    assert listeners.owner(8443, socket.AF_INET, V4) == "one"
    assert listeners.owner(8443, socket.AF_INET6, MAPPED) == "one", "the same address in IPv6 form"
    assert listeners.owner(8443, socket.AF_INET, ANY[:15] + b"\1") == "rest"
    assert listeners.owner(22, socket.AF_INET, V4) is None
    listeners.set([(8443, V4, "one"), (8443, MAPPED, "two")])
    assert listeners.owner(8443, socket.AF_INET, bytes([9]) + bytes(15)) is None


def test_plain_address() -> None:
    assert plain_address(socket.AF_INET6, MAPPED) == V4
    assert plain_address(socket.AF_INET, V4) == V4


@pytest.mark.parametrize("text", ["", "1 (x) S", "1 (x) S " + "a " * 30])
def test_stat_that_is_none(text: str) -> None:
    assert parse_stat(text) is None


def test_cgroup_of_a_unit() -> None:
    text = "1:name=systemd:/x\n0::/system.slice/web.service/worker\n"
    assert unit_cgroup(text, "web.service") == "/system.slice/web.service"
    assert unit_cgroup("1:cpu:/system.slice/web.service\n", "web.service") is None


def test_this_process_serves() -> None:
    """The real /proc: this test maps libssl and listens."""
    assert ssl.OPENSSL_VERSION
    with socket.create_server(("127.0.0.1", 0)) as server:
        # A process never counts itself as serving; so look with the eyes of another.
        found = _Others(EvidenceConfig()).look()
        here = namespace_of("/proc/self/ns/net")
        assert here is not None
        mine = next(p for p in found[here].processes if p.pid == os.getpid())
        inode = os.fstat(server.fileno()).st_ino
        assert _Others(EvidenceConfig()).inodes(mine, frozenset({inode, 1})) == {inode}
        assert mine.name.startswith("python") or mine.cgroup, sys.executable


class _Others(Processes):
    def _pids(self) -> list[int]:
        return [os.getpid()]


def test_cpu_of_a_unit_is_what_its_group_used_and_survives_a_restart(proc: Proc, tmp_path: Path) -> None:
    group = tmp_path / "cg/system.slice/web.service"
    group.mkdir(parents=True)
    usage = Usage(str(proc.root), str(tmp_path / "cg"))
    members = [process(5, cgroup="/system.slice/web.service"), process(6, cgroup="/system.slice/web.service")]
    for used, expected in ((5_000_000, 0.0), (7_500_000, 2.5), (1_000_000, 3.5), (1_200_000, 3.7)):
        (group / "cpu.stat").write_text(f"usage_usec {used}\nuser_usec 1\n")
        assert [(use.process, use.processes, use.cpu_s) for use in usage.measure(members)] == [("web", 2, expected)]


def test_cpu_of_a_process_and_its_children(proc: Proc) -> None:
    hertz = os.sysconf("SC_CLK_TCK")
    usage = Usage(str(proc.root), "/nowhere")
    proc.add(5, ticks=(1, 1, 1, 1))
    assert usage.measure([process(5)])[0].cpu_s == 0
    proc.add(5, ticks=(1 + hertz, 1, 1, 1 + 2 * hertz))
    assert usage.measure([process(5)])[0].cpu_s == 3
    proc.add(6, ticks=(hertz, 0, 0, 0))
    assert usage.measure([process(5), process(6)])[0].cpu_s == 3, "what a process used before it was seen is not ours"
    assert usage.measure([]) == ()


def test_time_is_that_of_this_boot() -> None:
    from ktls_agent.evidence.observer import boottime

    assert abs(boottime() - time.clock_gettime(time.CLOCK_BOOTTIME)) < 1
    assert struct.calcsize("=Q") == 8
