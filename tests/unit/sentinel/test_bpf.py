# SPDX-License-Identifier: Apache-2.0
"""The filter, run by the kernel: what it lets through a pair of datagram sockets."""

from __future__ import annotations

import ctypes
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_sentinel import bpf
from ktls_sentinel.frames import parse

from .packets import ethernet, ipv4, ipv6, tcp

PORTS = (443, 8443)
HOP = bytes([6, 0]) + bytes(6)


def passes(frame: bytes, ports: tuple[int, ...] = PORTS) -> bool:
    """A classic filter of a Unix datagram socket sees the message from its first byte on."""
    code = ctypes.create_string_buffer(bpf.program(ports))
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        program = struct.pack("@HP", (ctypes.sizeof(code) - 1) // 8, ctypes.addressof(code))
        receiver.setsockopt(socket.SOL_SOCKET, 26, program)
        sender.send(frame)
        try:
            return receiver.recv(1 << 18, socket.MSG_DONTWAIT) == frame
        except BlockingIOError:
            return False


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (ethernet(ipv4(tcp(b"x"))), True),
        (ethernet(ipv4(tcp(b"x"), options=bytes(40))), True),
        (ethernet(ipv4(tcp(b"x", sport=8444))), False),
        (ethernet(ipv4(tcp(b"x", sport=40000, dport=8443))), False),
        (ethernet(ipv4(tcp(b"x"), protocol=17)), False),
        (ethernet(ipv4(b"x" * 40, fragment=185)), True),
        (ethernet(ipv6(tcp(b"x", sport=443))), True),
        (ethernet(ipv6(tcp(b"x", sport=80))), False),
        (ethernet(ipv6(tcp(b"x"), following=0, extensions=HOP)), True),
        (ethernet(ipv6(tcp(b"x"), following=17)), False),
        (ethernet(ipv4(tcp(b"x")), tags=[0x8100]), True),
        (b"\2" * 12 + b"\x08\x06" + bytes(28), False),
        (b"short", False),
    ],
    ids=lambda value: value.hex()[:60] if isinstance(value, bytes) else str(value),
)
def test_what_passes(frame: bytes, expected: bool) -> None:
    assert passes(frame) is expected


def test_many_ports() -> None:
    ports = tuple(range(1000, 1000 + bpf.MAX_PORTS))
    assert passes(ethernet(ipv4(tcp(b"x", sport=ports[-1]))), ports)
    assert passes(ethernet(ipv6(tcp(b"x", sport=ports[0]))), ports)
    assert not passes(ethernet(ipv4(tcp(b"x", sport=999))), ports)
    for bad in ((), (*ports, 1)):
        with pytest.raises(ValueError, match="ports"):
            bpf.program(bad)


@given(st.binary(min_size=1, max_size=120), st.sampled_from([b"\x08\x00\x45", b"\x86\xdd\x60", b"\x81\x00"]))
def test_nothing_that_counts_is_held_back(tail: bytes, kind: bytes) -> None:
    frame = bytes(12) + kind + tail
    segment = parse(frame)
    if segment is not None and (segment.fragment or segment.sport in PORTS):
        assert passes(frame)
