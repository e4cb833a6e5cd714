# SPDX-License-Identifier: Apache-2.0
"""A network namespace in which the truth about every byte is known."""

from __future__ import annotations

import dataclasses
import socket
import struct
from collections import defaultdict
from collections.abc import Callable

from ktls_agent.evidence.infer import Contexts
from ktls_agent.evidence.ledger import HANDSHAKE_BYTES, HANDSHAKE_S, Ledger
from ktls_agent.evidence.model import Volume
from ktls_host.sock_diag_rows import CLOSE, ESTABLISHED, LAST_ACK, Row

PORTS = {443: "web", 8443: "sidecar"}
OTHER, SSH = 5000, 22
CONF = {"none": 1, "sw": 2, "hw": 3}
ADDRESS = bytes([10, 0, 0, 1]).ljust(16, b"\0")
CLIENT = bytes([10, 0, 0, 9]).ljust(16, b"\0")
Directions = tuple[str, str]


def owner(port: int, family: int, source: bytes) -> str | None:
    return PORTS.get(port)


def attribute(kind: int, data: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def tail(tx: str, rx: str) -> bytes:
    if (tx, rx) == ("none", "none"):
        return b""
    numbers = ((1, 0x304), (2, 52), (3, CONF[tx]), (4, CONF[rx]))
    tls = b"".join(attribute(kind, struct.pack("=H", number)) for kind, number in numbers)
    return attribute(19, attribute(1, b"tls\0") + attribute(2, tls))


@dataclasses.dataclass
class Conn:
    cookie: int
    port: int
    opened_s: float
    accepted: bool = False
    closed: bool = False
    reset: bool = False  # the connection is gone, the application has not noticed
    tx: str = "none"
    rx: str = "none"
    sent: int = 0
    received: int = 0
    data_s: float = 0.0
    begun_s: float = 0.0  # when its peer said something first
    unacked: int = 0
    far_port: int = 40000
    far: bytes = CLIENT
    source: bytes = ADDRESS
    # Bytes when it left a kind; a kind that it still has counts all.
    left: dict[Directions, tuple[int, int]] = dataclasses.field(default_factory=dict)

    def row(self) -> Row:
        state = LAST_ACK if self.closed else ESTABLISHED
        inode = 1000 + self.cookie if self.accepted and not self.closed else 0
        seen = b"" if self.closed else tail(self.tx, self.rx)
        port = socket.htons(self.port)
        return (
            self.cookie, self.sent, self.received, seen, inode, state, socket.AF_INET, port, self.source, 0, 0,
            socket.htons(self.far_port), self.far,
        )  # fmt: skip

    def notice(self, now_s: float = 0) -> Row:
        port = socket.htons(self.port)
        return (
            self.cookie,
            self.sent,
            self.received,
            b"",
            0,
            CLOSE,
            socket.AF_INET,
            port,
            self.source,
            int((now_s - self.data_s) * 1000),
            self.unacked,
            socket.htons(self.far_port),
            self.far,
        )


class World:
    """Connections, the counters of tls_stat, and a ledger that is told no more than a kernel tells."""

    def __init__(self) -> None:
        self.ledger = Ledger(owner, lambda port: port == SSH)
        self.conns: dict[int, Conn] = {}
        self.ended: list[Conn] = []
        self.notices: list[Row] = []
        self.opened = [0, 0, 0, 0]
        self.now_s = 100.0
        self.baseline: dict[int, tuple[int, int]] = {}
        self._cookie = 0
        self.local_ktls = False  # a client on the host had kernel TLS

    @property
    def contexts(self) -> Contexts:
        return Contexts(*self.opened)

    def open(self, port: int = 443) -> Conn:
        self._cookie += 1
        conn = self.conns[self._cookie] = Conn(self._cookie, port, self.now_s, data_s=self.now_s)
        return conn

    def grow(self, conn: Conn, sent: int, received: int) -> None:
        if conn.reset:
            return
        conn.sent += sent
        conn.received += received
        if received:
            conn.data_s = self.now_s
            conn.begun_s = conn.begun_s or self.now_s

    def keys(self, conn: Conn, direction: str, place: str = "sw") -> None:
        """Give keys to the kernel, as long as a handshake may last."""
        begun_s = self.now_s - (conn.begun_s or self.now_s)
        young = conn.sent < HANDSHAKE_BYTES and conn.received < HANDSHAKE_BYTES and begun_s < HANDSHAKE_S
        if (
            not conn.accepted
            or conn.closed
            or conn.reset
            or not young
            or conn.received < 50
            or getattr(conn, direction) != "none"
        ):
            return
        conn.left[(conn.tx, conn.rx)] = (conn.sent, conn.received)
        setattr(conn, direction, place)
        self.opened[2 * (direction == "rx") + (place == "hw")] += 1

    def destroy(self, conn: Conn) -> None:
        del self.conns[conn.cookie]
        self.ended.append(conn)
        self.notices.append(conn.notice(self.now_s))

    def short(self, port: int, sent: int, received: int, *directions: str, place: str = "sw") -> Conn:
        """A whole connection between two looks."""
        conn = self.open(port)
        conn.accepted = True
        self.grow(conn, 0, min(received, 200))
        for direction in directions:
            self.keys(conn, direction, place)
        self.grow(conn, sent, received - min(received, 200))
        self.destroy(conn)
        return conn

    def client(self, *directions: str, sent: int = 300, received: int = 5000, far_port: int = 443) -> Conn:
        """Open the client's end of a connection on this host, to a port of it."""
        conn = self.open(50000 + self._cookie % 1000)
        conn.far_port, conn.far, conn.accepted = far_port, ADDRESS, True
        self.grow(conn, 0, min(received, 60))
        for direction in directions:
            self.keys(conn, direction)
        self.grow(conn, sent, received - min(received, 60))
        return conn

    def drain(self) -> None:
        notices, self.notices = self.notices, []
        self.ledger.gone(notices, self.now_s)

    def dump(self, full: bool = True, meanwhile: Callable[[], None] = lambda: None) -> None:
        first = full and not self.baseline and self.ledger._counted is None
        self.ledger.begin(self.now_s, self.contexts, full)
        meanwhile()
        for conn in list(self.conns.values()):
            if conn.cookie in self.conns and not conn.reset:
                if first:
                    self.baseline[conn.cookie] = (conn.sent, conn.received)
                self.ledger.dump([conn.row()])
            meanwhile()
        self.ledger.end(self.contexts)

    def scan(self) -> None:
        """What an observer does: notices, a full dump, a while, notices, judgement."""
        self.drain()
        self.dump()
        self.drain()
        self.ledger.settle()
        self.now_s += 1

    def end_all(self) -> None:
        for conn in list(self.conns.values()):
            self.destroy(conn)
        self.scan()
        self.scan()
        self.scan()

    def total(self) -> Volume:
        """Bytes of serving ports since the first dump."""
        sent = received = 0
        for conn in [*self.conns.values(), *self.ended]:
            if conn.port in PORTS:
                before = self.baseline.get(conn.cookie, (0, 0))
                sent += conn.sent - before[0]
                received += conn.received - before[1]
        return Volume(sent, received)

    def attributed(self) -> dict[tuple[int, Directions], Volume]:
        found: dict[tuple[int, Directions], Volume] = defaultdict(Volume)
        for kind, volume in self.ledger.volumes().items():
            key = (kind.port, (kind.tx, kind.rx))
            found[key] = Volume(found[key].sent + volume.sent, found[key].received + volume.received)
        return {key: volume for key, volume in found.items() if volume != Volume()}

    def possible(self) -> dict[tuple[int, Directions], Volume]:
        """The most that a kind can have: all bytes of connections that ever were of it, until they became another."""
        found: dict[tuple[int, Directions], Volume] = defaultdict(Volume)
        for conn in [*self.conns.values(), *self.ended]:
            for directions, (sent, received) in {**conn.left, (conn.tx, conn.rx): (conn.sent, conn.received)}.items():
                key = (conn.port, directions)
                found[key] = Volume(found[key].sent + sent, found[key].received + received)
        return found
