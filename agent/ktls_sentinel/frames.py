# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames as a packet socket gives them: VLAN tags, IPv4, IPv6, TCP. Pure, and ready for any bytes.

A frame may be longer than the MTU: a segment that the card or the stack put together (GRO, LRO), up to 64 KiB, and
beyond with BIG TCP, where the length in the IPv4 header is 0 and IPv6 has a jumbo payload (RFC 2675).
"""

from __future__ import annotations

from typing import NamedTuple, Union

_VLAN = (0x8100, 0x88A8, 0x9100)
_IPV4, _IPV6 = 0x0800, 0x86DD
_TCP = 6
_MAX_TAGS = 4
_MAX_EXTENSIONS = 8
_HOP_BY_HOP, _ROUTING, _FRAGMENT, _AUTHENTICATION, _DESTINATION = 0, 43, 44, 51, 60

Buffer = Union[bytes, bytearray, memoryview]


class Segment(NamedTuple):
    """A TCP segment. Addresses are in network byte order, 4 or 16 bytes; ``payload`` is a part of the frame.

    ``fragment``: a later fragment of an IP packet; its ports and ``seq`` are not known and 0.
    """

    src: bytes
    sport: int
    dst: bytes
    dport: int
    seq: int
    payload: memoryview
    fragment: bool = False


def parse(frame: Buffer) -> Segment | None:
    """Return the segment in ``frame``; None if it holds no TCP, or is cut off before the end of its headers.

    What follows the IP packet (Ethernet's padding) is left out.
    """
    view = memoryview(frame)
    offset, tags = 12, 0
    while True:
        if len(view) < offset + 2:
            return None
        kind = _u16(view, offset)
        offset += 2
        if kind not in _VLAN:
            break
        tags += 1
        offset += 2
        if tags > _MAX_TAGS:
            return None
    packet = view[offset:]
    if kind == _IPV4:
        return _ipv4(packet)
    if kind == _IPV6:
        return _ipv6(packet)
    return None


def _ipv4(packet: memoryview) -> Segment | None:
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != _TCP:
        return None
    header = (packet[0] & 15) * 4
    # 0: put together to more than 64 KiB (net/ipv4/tcp_offload.c).
    total = _u16(packet, 2) or len(packet)
    if header < 20 or total < header:
        return None
    src, dst = bytes(packet[12:16]), bytes(packet[16:20])
    body = packet[header : min(total, len(packet))]
    if _u16(packet, 6) & 0x1FFF:
        return Segment(src, 0, dst, 0, 0, body, True)
    return _tcp(src, dst, body)


def _ipv6(packet: memoryview) -> Segment | None:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return None
    # 0: a jumbo payload, whose length is in an option; the frame ends where it does.
    length = _u16(packet, 4) or len(packet) - 40
    src, dst = bytes(packet[8:24]), bytes(packet[24:40])
    body = packet[40 : min(40 + length, len(packet))]
    following = packet[6]
    for _ in range(_MAX_EXTENSIONS):
        if following == _TCP:
            return _tcp(src, dst, body)
        if len(body) < 8:
            return None
        if following in (_HOP_BY_HOP, _ROUTING, _DESTINATION):
            size = (body[1] + 1) * 8
        elif following == _AUTHENTICATION:
            size = (body[1] + 2) * 4
        elif following == _FRAGMENT:
            size = 8
            if _u16(body, 2) & 0xFFF8:
                return Segment(src, 0, dst, 0, 0, body[8:], True) if body[0] == _TCP else None
        else:
            return None
        following, body = body[0], body[size:]
    return None


def _tcp(src: bytes, dst: bytes, body: memoryview) -> Segment | None:
    if len(body) < 20:
        return None
    header = (body[12] >> 4) * 4
    if not 20 <= header <= len(body):
        return None
    seq = _u16(body, 4) << 16 | _u16(body, 6)
    return Segment(src, _u16(body, 0), dst, _u16(body, 2), seq, body[header:])


def _u16(view: memoryview, offset: int) -> int:
    return view[offset] << 8 | view[offset + 1]
