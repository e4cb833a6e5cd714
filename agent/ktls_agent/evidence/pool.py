# SPDX-License-Identifier: Apache-2.0
"""Connections whose kind nobody saw, judged together over as many full dumps as that takes. Pure.

How many contexts were opened between two dumps is not sharp: a dump takes time, notices are late, and a connection that
ends meanwhile may have opened its context before or after. One connection in doubt leaves open which one it is, and so
the bytes of the largest. But the doubt is at the two ends alone. Over several intervals it does not grow: what was
opened in between is counted exactly. So connections wait here, up to :data:`MOST_WAITS` full dumps, as long as waiting
may tell: all of them may have been kTLS, and the last end is not sharp yet.

*Peers* are client ends of connections to servers of this very host. A client may have contexts too. What is certain
whatever they do comes first. Where that is not all, and every client of this host that was looked at long enough had
userspace TLS, it is *presumed* that the others had it as well, and what follows from that is named so. Of the agent
itself it is presumed without a look: its own download is over too soon for one.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from . import infer
from .infer import Bounds, Certain, Contexts

MOST_WAITS = 6
MOST_PENDING = 20_000
MOST_LATE = 2
"""Full dumps that a late notice is waited for."""
Group = tuple[int, str]  # local port, process
Edge = tuple[Contexts, Contexts]  # the counters before and after a dump
Half = tuple[Any, int, int]  # a socket that was seen with kTLS in one direction, and its last bytes


@dataclass
class Candidates:
    """Connections that ended without a final kind.

    ``groups``: bytes by port and process. ``halves``: those that were seen with kTLS in one direction, and
    their bytes. ``others``: how many there are on ports that are not ours, but for ``peers``. ``own``: those of the
    peers that are the agent's downloads from its own host.
    """

    groups: dict[Group, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    halves: list[Half] = field(default_factory=list)
    others: int = 0
    peers: int = 0
    own: int = 0

    @property
    def count(self) -> int:
        """How many may have opened contexts."""
        return self.others + self.peers + len(self.halves) + sum(map(len, self.groups.values()))

    @property
    def bytes(self) -> tuple[int, int]:
        """What they sent and received."""
        volumes = [volume for group in self.groups.values() for volume in group]
        return (
            sum(v[0] for v in volumes) + sum(h[1] for h in self.halves),
            sum(v[1] for v in volumes) + sum(h[2] for h in self.halves),
        )

    def add(self, other: Candidates) -> None:
        """Take those of another time too."""
        for group, volumes in other.groups.items():
            self.groups[group] += volumes
        self.halves += other.halves
        self.others += other.others
        self.peers += other.peers
        self.own += other.own


class Finding(NamedTuple):
    """What is said of a group: parts of which that kind is certain, and how many bytes of each are only presumed.

    ``presumes``: it holds only if peers had no contexts.
    """

    parts: list[Certain]
    presumed: list[tuple[int, int]]
    presumes: bool


class HalfFinding(NamedTuple):
    """Which direction the kernel took over last; None: nobody knows. ``presumed``: only if peers had none."""

    half: Half
    ulp: tuple[str, str] | None
    presumed: bool


@dataclass
class Pool:
    """The time since the full dump ``start``, at ``began_s``, and who may have opened contexts in it.

    ``outer``: connections that are judged elsewhere and may have. ``seen``: contexts since that were found on a
    connection, or are known to be of one. ``closing``: sockets that their application has closed, with a tally each.
    ``strict``: nothing in ``seen`` is presumed.
    """

    start: Edge | None
    began_s: float = 0.0
    outer: int = 0
    seen: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    waiting: Candidates = field(default_factory=Candidates)
    closing: dict[Group, list[Any]] = field(default_factory=lambda: defaultdict(list))
    waits: int = 0
    late: int = 0
    strict: bool = True

    @property
    def pending(self) -> int:
        """How many connections wait for their judgement."""
        groups = sum(map(len, self.waiting.groups.values())) + sum(map(len, self.closing.values()))
        return groups + len(self.waiting.halves)

    @property
    def full(self) -> bool:
        """Whether it must not wait any longer."""
        return self.waits >= MOST_WAITS or self.pending > MOST_PENDING

    def strangers(self, presume: bool) -> int:
        """Return how many connections that are not ours leave in doubt who opened a context."""
        return self.waiting.others + (0 if presume else self.waiting.peers)

    @property
    def bytes(self) -> tuple[int, int]:
        """What they sent and received."""
        sent, received = self.waiting.bytes
        for sockets in self.closing.values():
            sent += sum(socket.tally.sent for socket in sockets)
            received += sum(socket.tally.received for socket in sockets)
        return sent, received

    def volumes(self, group: Group) -> list[tuple[int, int]]:
        """Return the bytes of each connection of a group."""
        closing = self.closing.get(group, [])
        return [*self.waiting.groups.get(group, []), *((one.tally.sent, one.tally.received) for one in closing)]

    @property
    def groups(self) -> list[Group]:
        """Who has connections here."""
        return sorted({*self.waiting.groups, *self.closing})

    def bounds(self, edge: Edge, complete: bool) -> Bounds:
        """Return what was opened unseen until the dump ``edge``."""
        return infer.bounds(*self.start, *edge, self.seen, complete) if self.start is not None else Bounds()

    # what follows

    def finding(self, group: Group, unseen: Bounds, border: Candidates, presume: bool) -> Finding:
        """Judge a group. ``border``: connections that may have opened contexts in this time or after it."""
        strict = self._parts(group, unseen, border, peers=True) if self.strict else []
        if not presume or _whole(strict, len(self.volumes(group))):
            return Finding(strict, [(0, 0)] * len(strict), False)
        parts = self._parts(group, unseen, border, peers=False)
        known = {(part.tx, part.rx): part for part in strict}
        presumed = []
        for part in parts:
            sure = known.get((part.tx, part.rx))
            presumed.append((part.sent - sure.sent, part.received - sure.received) if sure else part[3:])
        return Finding(parts, presumed, True)

    def half(self, half: Half, unseen: Bounds, border: Candidates, presume: bool) -> HalfFinding:
        """Say what became of the direction that was not in the kernel yet."""
        for peers in (*((True,) if self.strict else ()), *((False,) if presume else ())):
            ulp = self._half(half, unseen, border, peers)
            if ulp is not None:
                return HalfFinding(half, ulp, not peers)
        return HalfFinding(half, None, False)

    def hopeless(self, unseen: Bounds, presume: bool) -> bool:
        """Whether waiting would not tell either: not all of them can have been kTLS."""
        # Those of the start count already, and need not have opened anything in this time.
        tx, rx = (users - self.outer for users in self._users(Candidates(), peers=not presume))
        most = unseen.most
        sending, receiving = most.tx_sw + most.tx_hw, most.rx_sw + most.rx_hw
        return sending < tx or 0 < receiving < rx

    # what is taken out

    def resolve(self, group: Group, part: Certain, presumed: bool) -> list[Any]:
        """Forget a group that is wholly of one kind; its contexts are known now. Return its closing sockets."""
        for direction, place in enumerate((part.tx, part.rx)):
            if place != "none":
                self.seen[2 * direction + (place == "hw")] += part.number
        self.strict = self.strict and not presumed
        self.waiting.groups.pop(group, None)
        return self.closing.pop(group, [])

    def resolve_half(self, found: HalfFinding) -> None:
        """Forget a half of which the other direction is known."""
        assert found.ulp is not None
        self.waiting.halves.remove(found.half)
        missing = 1 if found.half[0].contexts & 1 else 0
        if found.ulp[missing] != "none":
            self.seen[2 * missing + (found.ulp[missing] == "hw")] += 1
        self.strict = self.strict and not found.presumed

    # how

    def _users(self, border: Candidates, *, peers: bool) -> tuple[int, int]:
        """Return how many may have opened a context for sending, and one for receiving."""
        groups = sum(map(len, self.waiting.groups.values())) + sum(map(len, self.closing.values()))
        rest = groups + self.waiting.others + self.outer + border.count - border.peers
        if peers:
            rest += self.waiting.peers + border.peers
        sending = sum(1 for half in self.waiting.halves if not half[0].contexts & 1)
        return rest + sending, rest + len(self.waiting.halves) - sending

    def _parts(self, group: Group, unseen: Bounds, border: Candidates, *, peers: bool) -> list[Certain]:
        tx, rx = self._users(border, peers=peers)
        volumes = self.volumes(group)
        return infer.attribute(volumes, tx - len(volumes), unseen, rx - len(volumes))

    def _half(self, half: Half, unseen: Bounds, border: Candidates, peers: bool) -> tuple[str, str] | None:
        socket = half[0]
        missing = 1 if socket.contexts & 1 else 0
        least_sw, least_hw = unseen.least[2 * missing : 2 * missing + 2]
        most_sw, most_hw = unseen.most[2 * missing : 2 * missing + 2]
        place = "none" if most_sw + most_hw == 0 else ""
        if not place and not (most_sw and most_hw) and least_sw + least_hw >= self._users(border, peers=peers)[missing]:
            place = "hw" if most_hw else "sw"
        if not place:
            return None
        return (socket.ulp.tx, place) if missing else (place, socket.ulp.rx)


def _whole(parts: list[Certain], number: int) -> bool:
    return len(parts) == 1 and parts[0].number == number


def whole(finding: Finding, number: int) -> bool:
    """Whether all ``number`` connections are of one kind."""
    return _whole(finding.parts, number)
