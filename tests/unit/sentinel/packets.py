# SPDX-License-Identifier: Apache-2.0
"""Frames made by hand, byte for byte as RFC 791, 8200 and 9293 have them. Checksums are 0: nobody looks at them."""

from __future__ import annotations

import struct
from collections.abc import Sequence

V4 = (bytes([192, 0, 2, 1]), bytes([192, 0, 2, 2]))
V6 = (bytes.fromhex("20010db8" + "0" * 23 + "1"), bytes.fromhex("20010db8" + "0" * 23 + "2"))


def tcp(payload: bytes, sport: int = 8443, dport: int = 40000, seq: int = 7, options: bytes = b"") -> bytes:
    words = 5 + len(options) // 4
    return struct.pack("!HHIIBBHHH", sport, dport, seq, 0, words << 4, 0x18, 1000, 0, 0) + options + payload


def ipv4(body: bytes, *, protocol: int = 6, options: bytes = b"", fragment: int = 0, total: int | None = None) -> bytes:
    words = 5 + len(options) // 4
    length = words * 4 + len(body) if total is None else total
    head = struct.pack("!BBHHHBBH", 0x40 | words, 0, length, 1, fragment, 64, protocol, 0)
    return head + V4[0] + V4[1] + options + body


def ipv6(body: bytes, *, following: int = 6, extensions: bytes = b"", length: int | None = None) -> bytes:
    size = len(extensions) + len(body) if length is None else length
    return struct.pack("!IHBB", 6 << 28, size, following, 64) + V6[0] + V6[1] + extensions + body


def ethernet(packet: bytes, *, tags: Sequence[int] = (), padding: bytes = b"") -> bytes:
    kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
    vlan = b"".join(struct.pack("!HH", tag, 100) for tag in tags)
    return b"\2\0\0\0\0\1\2\0\0\0\0\2" + vlan + struct.pack("!H", kind) + packet + padding
