# SPDX-License-Identifier: Apache-2.0
"""What is done with frames: counting for connections of ours, leaks of any."""

from __future__ import annotations

from ktls_host.probe_object import probe_bytes
from ktls_sentinel.blocks import probe_blocks
from ktls_sentinel.watch import Flow, Leak, Watch, name

from .packets import V4, V6, ethernet, ipv4, ipv6, tcp

CLEAR = probe_bytes()[100:1100]
FLOW = Flow(V4[0], 8443, V4[1], 40000)


class Watching:
    def __init__(self) -> None:
        self.leaks: list[Leak] = []
        self.watch = Watch(probe_blocks(), [8443], self.leaks.append)
        self.watch.expect(FLOW)

    def frame(self, packet: bytes) -> None:
        self.watch.frame(ethernet(packet), 1000.5)


def test_counts_are_of_the_connection_and_each_byte_once() -> None:
    watching = Watching()
    for seq in (100, 200, 100):
        watching.frame(ipv4(tcp(bytes(100), seq=seq)))
    watching.frame(ipv4(tcp(bytes(100), dport=40001)))
    watching.frame(ipv4(tcp(b"", seq=300)))
    assert watching.watch.covered(FLOW) == 200
    seen = watching.watch.forget(FLOW)
    assert (seen.packets, seen.payload_bytes, seen.covered) == (4, 300, 200)
    assert watching.leaks == []
    watching.frame(ipv4(tcp(bytes(100))))


def test_a_leak_of_any_connection_with_the_port() -> None:
    watching = Watching()
    watching.frame(ipv4(tcp(CLEAR)))
    watching.frame(ipv6(tcp(CLEAR, dport=5)))
    watching.frame(ipv4(tcp(CLEAR, sport=80)))
    assert watching.leaks == [
        Leak(1000.5, "192.0.2.1:8443", "192.0.2.2:40000", 4),
        Leak(1000.5, "[2001:db8::1]:8443", "[2001:db8::2]:5", 4),
    ]


def test_a_later_fragment_counts_when_it_comes_from_a_target() -> None:
    watching = Watching()
    watching.frame(ipv4(CLEAR, fragment=185))
    assert watching.leaks == [Leak(1000.5, "192.0.2.1", "192.0.2.2", 4)]
    watching.frame(ipv6(CLEAR, following=44, extensions=bytes([6, 0, 5, 0xA8]) + bytes(4)))
    assert len(watching.leaks) == 1


def test_sources_do_not_grow_for_ever() -> None:
    watching = Watching()
    for index in range(3000):
        flow = Flow(index.to_bytes(4, "big"), 8443, V4[1], 1)
        watching.watch.expect(flow)
        watching.watch.forget(flow)
    assert len(watching.watch._sources) <= 1024
    assert len(watching.watch._flows) == 1


def test_names() -> None:
    assert name(V4[0], 443) == "192.0.2.1:443"
    assert name(V6[0], 443) == "[2001:db8::1]:443"
    assert name(V6[0], 0) == "[2001:db8::1]"
