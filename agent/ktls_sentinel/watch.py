# SPDX-License-Identifier: Apache-2.0
"""What is done with each captured frame: count it for its connection, and look for blocks of the probe file in it.

Nothing of a payload is kept: of a leak only where it was and which block it was.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .blocks import Blocks
from .coverage import Coverage
from .frames import Buffer, parse


class Flow(NamedTuple):
    """A connection of ours, as the server's packets have it. Addresses in network byte order."""

    src: bytes
    sport: int
    dst: bytes
    dport: int


@dataclass
class Seen:
    """What was seen of one connection. ``payload_bytes`` counts retransmissions too, ``covered`` each byte once."""

    packets: int = 0
    payload_bytes: int = 0
    coverage: Coverage = field(default_factory=Coverage)

    @property
    def covered(self) -> int:
        """Bytes of the stream, each counted once."""
        return self.coverage.bytes


@dataclass(frozen=True)
class Leak:
    """Plaintext on the wire. ``at``: wall clock in seconds. ``block``: its number in the probe file."""

    at: float
    src: str
    dst: str
    block: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {"at": round(self.at, 3), "src": self.src, "dst": self.dst, "block": self.block}


class Watch:
    """Frames come in from one thread; connections are announced and asked for from others."""

    def __init__(self, blocks: Blocks, ports: Iterable[int], on_leak: Callable[[Leak], None]) -> None:
        """Look at what comes from ``ports``, and tell ``on_leak`` of every frame with a block in it."""
        self._blocks = blocks
        self._ports = frozenset(ports)
        self._on_leak = on_leak
        self._lock = threading.Lock()
        self._flows: dict[Flow, Seen] = {}
        self._sources: dict[bytes, None] = {}

    def expect(self, flow: Flow) -> None:
        """Count the packets of ``flow`` from now on."""
        with self._lock:
            self._flows[flow] = Seen()
            self._sources[flow.src] = None
            if len(self._sources) > 1024:
                del self._sources[next(iter(self._sources))]

    def covered(self, flow: Flow) -> int:
        """Return how many bytes of an expected connection were seen so far."""
        with self._lock:
            return self._flows[flow].covered

    def forget(self, flow: Flow) -> Seen:
        """Return what was seen of an expected connection, and count no more."""
        with self._lock:
            return self._flows.pop(flow)

    def frame(self, frame: Buffer, at: float) -> None:
        """Look at a frame that came in at wall clock ``at``."""
        segment = parse(frame)
        if segment is None:
            return
        if segment.fragment:
            # Without ports; TCP does not come in fragments unless somebody on the way makes them.
            if segment.src not in self._sources:
                return
        elif segment.sport not in self._ports:
            return
        else:
            # By position: a NamedTuple of the same four.
            seen = self._flows.get(Flow(*segment[:4]))
            if seen is not None:
                with self._lock:
                    seen.packets += 1
                    seen.payload_bytes += len(segment.payload)
                    seen.coverage.add(segment.seq, len(segment.payload))
        block = self._blocks.find(segment.payload)
        if block is not None:
            self._on_leak(Leak(at, name(segment.src, segment.sport), name(segment.dst, segment.dport), block))


def name(address: bytes, port: int) -> str:
    """Return ``192.0.2.1:443`` or ``[2001:db8::1]:443``; a port of 0 is not known, and left out."""
    if len(address) == 4:
        text = socket.inet_ntop(socket.AF_INET, address)
    else:
        text = f"[{socket.inet_ntop(socket.AF_INET6, address)}]"
    return f"{text}:{port}" if port else text
