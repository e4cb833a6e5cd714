# SPDX-License-Identifier: Apache-2.0
"""A classic BPF program for a packet socket: TCP from served ports, and what cannot be told so easily. Pure.

Instructions as in linux/filter.h and linux/bpf_common.h. The kernel has taken the outer VLAN tag out of the frame when
the program runs (``skb_vlan_untag`` in net/core/dev.c); a frame that still has one, a later fragment and IPv6 with
extension headers pass, and :mod:`ktls_sentinel.frames` looks at them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

MAX_PORTS = 128
_INSTRUCTION = struct.Struct("=HBBI")
_LD_H, _LD_B, _LDX_MSH, _LD_H_X = 0x28, 0x30, 0xB1, 0x48  # BPF_LD|BPF_H|BPF_ABS, ...B..., LDX|B|MSH, LD|H|IND
_JEQ, _JSET, _JA, _RET = 0x15, 0x45, 0x05, 0x06
_ALL = 0x7FFFFFFF
_EXTENSIONS = (0, 43, 44, 51, 60)


def program(ports: Sequence[int]) -> bytes:
    """Return the instructions that let TCP through that comes from one of ``ports``."""
    if not 1 <= len(ports) <= MAX_PORTS:
        raise ValueError(f"1 to {MAX_PORTS} ports")
    lines: list[tuple[int, int, str | None, str | None]] = []
    labels: dict[str, int] = {}

    def line(code: int, k: int = 0, then: str | None = None, otherwise: str | None = None) -> None:
        lines.append((code, k, then, otherwise))

    def label(name: str) -> None:
        labels[name] = len(lines)

    line(_LD_H, 12)
    for tag in (0x8100, 0x88A8, 0x9100):
        line(_JEQ, tag, "near", None)
    line(_JEQ, 0x0800, "v4", None)
    line(_JEQ, 0x86DD, "v6", "drop")
    label("near")
    line(_RET, _ALL)
    label("drop")
    line(_RET, 0)
    label("v4")
    line(_LD_B, 14 + 9)
    line(_JEQ, 6, None, "drop4")
    line(_LD_H, 14 + 6)
    line(_JSET, 0x1FFF, "pass4", None)
    line(_LDX_MSH, 14)
    line(_LD_H_X, 14)
    line(_JA, 0, "ports")
    label("pass4")
    line(_RET, _ALL)
    label("drop4")
    line(_RET, 0)
    label("v6")
    line(_LD_B, 14 + 6)
    line(_JEQ, 6, "tcp6", None)
    for following in _EXTENSIONS:
        line(_JEQ, following, "pass6", None)
    line(_RET, 0)
    label("pass6")
    line(_RET, _ALL)
    label("tcp6")
    line(_LD_H, 14 + 40)
    label("ports")
    for port in ports:
        line(_JEQ, port, "found", None)
    line(_RET, 0)
    label("found")
    line(_RET, _ALL)
    return b"".join(_assemble(at, entry, labels) for at, entry in enumerate(lines))


def _assemble(at: int, entry: tuple[int, int, str | None, str | None], labels: dict[str, int]) -> bytes:
    """A jump counts from the instruction after it; a conditional one has 8 bits for that."""
    code, k, then, otherwise = entry

    def distance(name: str | None) -> int:
        return 0 if name is None else labels[name] - at - 1

    if code == _JA:
        return _INSTRUCTION.pack(code, 0, 0, distance(then))
    return _INSTRUCTION.pack(code, distance(then), distance(otherwise), k)
