# SPDX-License-Identifier: Apache-2.0
"""Frames: every form that a TCP segment comes in, and bytes of somebody who means harm."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_sentinel.frames import Segment, parse

from .packets import V4, V6, ethernet, ipv4, ipv6, tcp

PAYLOAD = b"\x17\x03\x03 a record"
HOP = bytes([6, 0]) + bytes(6)


def seen(frame: bytes) -> tuple[object, ...] | None:
    segment = parse(frame)
    return None if segment is None else (*segment[:5], bytes(segment.payload), segment.fragment)


FOUR = (V4[0], 8443, V4[1], 40000, 7, PAYLOAD, False)
SIX = (V6[0], 8443, V6[1], 40000, 7, PAYLOAD, False)


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (ethernet(ipv4(tcp(PAYLOAD))), FOUR),
        (ethernet(ipv4(tcp(PAYLOAD)), padding=b"\xff" * 30), FOUR),
        (ethernet(ipv4(tcp(PAYLOAD), options=bytes(8))), FOUR),
        (ethernet(ipv4(tcp(PAYLOAD, options=b"\1" * 12))), FOUR),
        (ethernet(ipv4(tcp(PAYLOAD)), tags=[0x8100]), FOUR),
        (ethernet(ipv4(tcp(PAYLOAD)), tags=[0x88A8, 0x8100]), FOUR),
        (ethernet(ipv4(tcp(PAYLOAD)), tags=[0x9100] * 4), FOUR),
        (ethernet(ipv4(tcp(PAYLOAD), fragment=0x4000)), FOUR),  # do not fragment
        (ethernet(ipv4(tcp(PAYLOAD), fragment=0x2000)), FOUR),  # the first of several
        (ethernet(ipv4(tcp(PAYLOAD), total=0)), FOUR),
        (ethernet(ipv6(tcp(PAYLOAD))), SIX),
        (ethernet(ipv6(tcp(PAYLOAD)), padding=b"\xff" * 30), SIX),
        (ethernet(ipv6(tcp(PAYLOAD), length=0)), SIX),
        (ethernet(ipv6(tcp(PAYLOAD), following=0, extensions=HOP)), SIX),
        (ethernet(ipv6(tcp(PAYLOAD), following=60, extensions=bytes([43, 1]) + bytes(14) + HOP)), SIX),
        (ethernet(ipv6(tcp(PAYLOAD), following=51, extensions=bytes([6, 4]) + bytes(22))), SIX),
        (ethernet(ipv6(tcp(PAYLOAD), following=44, extensions=bytes([6, 0, 0, 1]) + bytes(4))), SIX),
        (ethernet(ipv4(PAYLOAD, fragment=185)), (V4[0], 0, V4[1], 0, 0, PAYLOAD, True)),
        (
            ethernet(ipv6(PAYLOAD, following=44, extensions=bytes([6, 0, 5, 0xA8]) + bytes(4))),
            (V6[0], 0, V6[1], 0, 0, PAYLOAD, True),
        ),
    ],
)
def test_forms(frame: bytes, expected: tuple[object, ...]) -> None:
    assert seen(frame) == expected


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        ethernet(ipv4(tcp(PAYLOAD), protocol=17)),
        ethernet(ipv4(tcp(PAYLOAD)), tags=[0x8100] * 5),
        ethernet(ipv4(tcp(PAYLOAD), total=10)),
        ethernet(b"\x44" + ipv4(tcp(PAYLOAD))[1:]),  # a header of 16 bytes
        ethernet(ipv4(b"\0" * 19)),
        ethernet(ipv4(tcp(PAYLOAD)[:12] + b"\x40" + tcp(PAYLOAD)[13:])),  # TCP header of 16 bytes
        ethernet(ipv4(tcp(b"")[:12] + b"\xf0" + tcp(b"")[13:])),  # TCP header longer than the packet
        ethernet(ipv6(tcp(PAYLOAD), following=59)),
        ethernet(ipv6(b"", following=0, extensions=bytes([0, 0]) + bytes(6)) * 1),
        ethernet(ipv6(tcp(PAYLOAD), following=0, extensions=(bytes([0, 0]) + bytes(6)) * 9)),
        ethernet(ipv6(PAYLOAD, following=44, extensions=bytes([17, 0, 5, 0xA8]) + bytes(4))),
        b"\2" * 12 + b"\x08\x06" + bytes(28),  # ARP
    ],
)
def test_no_segment(frame: bytes) -> None:
    assert parse(frame) is None


def test_segments_that_were_put_together() -> None:
    big = bytes(65000)
    assert seen(ethernet(ipv4(tcp(big))))[5] == big  # type: ignore[index]
    # BIG TCP: the length does not fit into the header.
    bigger = bytes(300_000)
    assert seen(ethernet(ipv4(tcp(bigger), total=0)))[5] == bigger  # type: ignore[index]
    jumbo = bytes([6, 0, 0xC2, 4]) + struct.pack("!I", len(bigger) + 28)
    assert seen(ethernet(ipv6(tcp(bigger), following=0, extensions=jumbo, length=0)))[5] == bigger  # type: ignore[index]


GOOD = [
    ethernet(ipv4(tcp(PAYLOAD, options=b"\1" * 4)), tags=[0x8100]),
    ethernet(ipv6(tcp(PAYLOAD), following=0, extensions=HOP)),
]


@given(
    st.sampled_from(GOOD), st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), max_size=6), st.integers(0, 99)
)
def test_hostile_frames_are_a_segment_inside_the_frame_or_none(
    good: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    frame = bytearray(good)
    for place, value in changes:
        frame[place % len(frame)] = value
    check(bytes(frame[:cut]))
    check(bytes(frame))


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x08\x00", b"\x86\xdd", b"\x81\x00\0\0\x08\x00"]))
def test_any_bytes(tail: bytes, kind: bytes) -> None:
    check(bytes(12) + kind + tail)
    check(tail)


def check(frame: bytes) -> None:
    segment = parse(frame)
    assert segment is None or isinstance(segment, Segment)
    if segment is not None:
        assert bytes(segment.payload) in frame
        assert 0 <= segment.sport <= 65535
        assert 0 <= segment.dport <= 65535
        assert 0 <= segment.seq < 1 << 32
        assert {len(segment.src), len(segment.dst)} in ({4}, {16})
