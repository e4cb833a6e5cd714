# SPDX-License-Identifier: Apache-2.0
"""Whose bytes they were: dumps and destroy notices of one network namespace, added up by kind. Pure.

Each socket has a cookie, which no other socket ever gets, and counters that only grow. A dump shows the counters and
the ULP; the destroy notice shows the last counters alone, for the ULP is gone by then. So:

- growth that a dump shows belongs to the kind that this dump shows. Kernel TLS begins after the handshake and does not
  end before the application closes the socket: a connection goes from userspace to kTLS once, and never back;
- what a connection grew between the last dump and its end belongs to the kind last seen, if that was final;
- where no kind was seen, or one that was not final, the connection is a *candidate*: its bytes are held until the next
  full dump, or some more (:mod:`.pool`), when :mod:`.infer` says what is certain. What is not certain is unattributed.

When is a kind final? With kTLS in both directions at once. Else when the handshake is surely over, because keys are
given to the kernel at its end: after ``HANDSHAKE_BYTES``, or when the kind was the same in dumps ``HANDSHAKE_S`` apart,
from when the peer has said something: a handshake does not begin with the connection. Should kTLS come later all the
same, a dump sees it.
A socket without inode tells nothing: either nobody accepted it yet, or the application has closed it and the ULP is
gone while the last bytes are still on their way.

A notice may be late, since the kernel sends it from a work queue (net/core/sock_diag.c). Until :meth:`Ledger.settle`,
which the caller calls ``GRACE_S`` after a full dump, a new candidate may be of the time before that dump or
after it, and is judged by both. One that is later than that leaves contexts over that are nobody's: then the time goes
on, and the next judgement has both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ktls_host.probe_object import PROBE_SIZE
from ktls_host.sock_diag_rows import CLOSE_WAIT, ESTABLISHED, Row, port_of, ulp_of

from . import infer
from .infer import Bounds, Contexts
from .model import Kind, Volume
from .pool import MOST_LATE, Candidates, Edge, Finding, Group, HalfFinding, Pool, whole
from .serving import plain_address

HANDSHAKE_BYTES = 64 * 1024
HANDSHAKE_S = 60.0  # which nginx gives to one (client_header_timeout); a busy host may need it
LEAST_TLS_BYTES = 50  # a record with the smallest ClientHello or ServerHello (RFC 8446 4.1.2, 4.1.3, 5.1)
GRACE_S = 0.05
_MOST_FORGOTTEN = 65536
_INTERVALS = 64  # remembered for connections that their application closes late
_PROBE_MORE = 16 * 1024  # TLS and HTTP around the probe object
CUT_BYTES = 96  # what may stay unacknowledged at a good end: a close_notify of any cipher suite, and a FIN
_DELAY_S = 2.0  # from the end of a socket to the moment that its notice is read

_MOST_ADDRESSES = 4096
EndKey = tuple[int, str, str]  # local port, process, how it sent: ktls, userspace, unknown
Owner = Callable[[int, int, bytes], "str | None"]
"""From local port, address family and local address to the process that serves there; None: not ours to count."""
_NO_TLS, _PEER, _OTHER = range(3)  # what a connection of a port that is not ours may be


class _Ulp(NamedTuple):
    version: str = ""
    cipher: str = ""
    tx: str = "none"
    rx: str = "none"


_PLAIN = _Ulp()


class _Tally:
    """What one kind has: bytes sent and received, connections open."""

    __slots__ = ("open", "received", "sent")

    def __init__(self) -> None:
        self.sent = self.received = self.open = 0

    def add(self, sent: int, received: int) -> None:
        self.sent += sent
        self.received += received

    def volume(self) -> Volume:
        return Volume(self.sent, self.received)


class _Sum(_Tally):
    """Not a tally of its own: what is added here is added to each of those."""

    __slots__ = ("_tallies",)

    def __init__(self, *tallies: _Tally) -> None:
        self._tallies = tallies
        self.open = 0

    @property
    def sent(self) -> int:
        return 0

    @sent.setter
    def sent(self, more: int) -> None:
        for tally in self._tallies:
            tally.sent += more

    @property
    def received(self) -> int:
        return 0

    @received.setter
    def received(self, more: int) -> None:
        for tally in self._tallies:
            tally.received += more


class _Socket:
    """One open socket as last seen.

    Its growth goes to ``tally``: that of its kind while ``counted``, else one of its own that is held until its kind
    is known. ``closing``: the application has closed it. ``judged``: :meth:`Ledger.settle` is about to say its kind.
    ``far``: the other end, port and address.
    """

    __slots__ = (
        "acked", "closing", "contexts", "counted", "family", "far", "final", "group", "judged", "raw_port", "received",
        "seen_s", "source", "tail", "tally", "turn", "ulp",
    )  # fmt: skip

    def __init__(
        self, raw_port: int, family: int, source: bytes, far: tuple[int, bytes], group: Group | None, turn: int
    ) -> None:
        self.raw_port, self.family, self.source, self.far = raw_port, family, source, far
        self.group, self.turn = group, turn
        self.acked = self.received = self.contexts = 0
        self.tail = b""
        self.tally = _Tally()
        self.ulp: _Ulp | None = None
        self.seen_s = 0.0
        self.counted = self.closing = self.judged = self.final = False


class _Past(NamedTuple):
    """The time between two full dumps, and what was opened unseen in it."""

    began_s: float
    ended_s: float
    unseen: Bounds


class Ledger:
    """The books of one network namespace."""

    def __init__(
        self, owner: Owner, harmless: Callable[[int], bool] = lambda port: False, probe_port: int | None = None
    ) -> None:
        """Start with nothing; what the first dump shows was there before and does not count.

        ``harmless``: whether a local port is served by a program that has no TLS. Should kernel TLS be seen there all
        the same, that is believed instead. ``probe_port``: where the agent downloads its probe object from.
        """
        self.vanished = 0
        self.ends: dict[EndKey, list[int]] = {}
        """How many connections ended, and how many of them were cut, by port, process and path."""
        self.clients = [0, 0]
        """Client ends of connections to servers of this host that were looked at long enough: all, and with kTLS."""
        self._owner = owner
        self._harmless = harmless
        self._probe_port = probe_port
        self._suspects: set[int] = set()  # ports that are not ours, with kernel TLS
        self._addresses: set[bytes] = set()  # of this host, as far as they were seen
        self._unattributed, self._inferred, self._elsewhere, self._presumed = _Tally(), _Tally(), _Tally(), _Tally()
        self._tallies: dict[Kind, _Tally] = {}
        self._sockets: dict[int, _Socket] = {}
        self._forgotten: dict[int, tuple[int, int]] = {}
        self._turn = 0  # full dumps so far
        self._now_s = self._full_s = self._before_s = 0.0
        self._past: deque[_Past] = deque(maxlen=_INTERVALS)
        self._full = False
        self._uncertain = 0  # full dumps until it is certain again that no notice is missing
        self._seen = [0, 0, 0, 0]  # contexts first seen since the last full dump
        self._counted: Edge | None = None  # before and after the last full dump
        self._counted_before: Edge | None = None  # and those of the one before
        self._began = Contexts()
        self._pool: Pool | None = None
        self._fell = False  # a counter did, between the last two full dumps
        self._complete = True  # no notice of that time is missing
        self._new = [0, 0, 0, 0]  # contexts first seen in it
        # Candidates since the last full dump was settled, and while it was not.
        self._clear, self._border = Candidates(), Candidates()
        self._wide = Candidates()  # the border of the dump before
        self._judged: tuple[Candidates, list[_Socket]] | None = None
        self._bounds, self._before, self._before_count = Bounds(), Bounds(), 0

    # what happens

    def begin(self, now_s: float, opened: Contexts, full: bool) -> None:
        """A dump begins, ``full`` if it is of every port. ``opened``: contexts that the namespace has opened so far."""
        if full:
            self.settle()
            self._turn += 1
            self._before_s, self._full_s = self._full_s, now_s
        self._now_s, self._full, self._began = now_s, full, opened

    def dump(self, rows: Iterable[Row]) -> None:
        """Take some sockets of the dump."""
        get, turn = self._sockets.get, self._turn
        for row in rows:
            cookie, acked, received, tail, inode, state, *_ = row
            found = get(cookie)
            if found is None:
                self._first_sight(row)
                continue
            found.turn = turn
            if not found.final or (tail != found.tail and inode):
                self._look(found, tail, inode, state, acked, received)
            if acked != found.acked or received != found.received:
                tally = found.tally
                tally.sent += acked - found.acked
                tally.received += received - found.received
                found.acked, found.received = acked, received

    def end(self, opened: Contexts) -> None:
        """The dump is complete. After a full one, :meth:`settle` is due."""
        if not self._full:
            return
        if self._counted is not None:
            self._bounds = infer.bounds(*self._counted, self._began, opened, self._seen, not self._uncertain)
            self._fell = infer.fell(*self._counted, self._began, opened)
        self._complete = not self._uncertain
        self._counted_before, self._counted = self._counted, (self._began, opened)
        self._new, self._seen = self._seen, [0, 0, 0, 0]
        orphans = []
        for cookie, socket in list(self._sockets.items()):
            missing = self._turn - socket.turn
            if missing >= 2 and self._uncertain == 1:
                self._vanish(cookie, socket)
                continue
            if missing:
                # Its notice is on the way; or the connection was reset, and the application has not closed it yet.
                self._close(socket)
            if socket.closing and not (socket.judged or socket.final):
                if socket.group is None and self._stranger(socket) == _NO_TLS:
                    socket.tally, socket.final = self._elsewhere, True
                    continue
                socket.judged = True
                orphans.append(socket)
        self._uncertain = max(0, self._uncertain - 1)
        self._past.append(_Past(self._before_s, self._now_s, self._bounds))
        self._judged = (self._clear, orphans)
        self._clear, self._wide, self._border = Candidates(), self._border, Candidates()

    def gone(self, rows: Iterable[Row], now_s: float) -> None:
        """Take destroy notices."""
        for row in rows:
            cookie, acked, received, _, _, _, family, raw_port, source, quiet_ms, unacked, *_ = row
            socket = self._sockets.pop(cookie, None)
            if socket is None:
                if cookie in self._forgotten:
                    before = self._forgotten.pop(cookie)
                    self._unattributed.add(acked - before[0], received - before[1])
                    continue
                group = self._group(raw_port, family, source)
                self._end(group, "unknown", unacked)
                # Until the judgement a notice may be of the time before the last full dump without being late.
                due_s = self._full_s if self._judged is None else self._before_s
                if received >= LEAST_TLS_BYTES and now_s - quiet_ms / 1000 < due_s:
                    self._closed_late(group, acked, received, now_s - quiet_ms / 1000)
                    continue
                self._know(family, source)
                if group is None:
                    self._foreign(_Socket(raw_port, family, source, row[11:13], None, 0), received)
                else:
                    self._unseen_end(group, acked, received, received)
                continue
            self._end(socket.group, _path(socket), unacked)
            self._uncount(socket)
            sent, got = acked - socket.acked, received - socket.received
            if socket.final or socket.judged:
                socket.tally.add(sent, got)
            elif socket.ulp is None or socket.closing:
                self._candidate(socket, socket.tally.sent + sent, socket.tally.received + got, received)
            else:
                self._candidate(socket, sent, got, received)

    def lost(self) -> None:
        """The kernel dropped notices: connections may have ended of which nothing will ever be known."""
        self._uncertain = 2

    def settle(self) -> None:
        """Judge the candidates of the time before the last full dump."""
        if self._judged is None or self._counted is None:
            return
        clear, orphans = self._judged
        self._judged = None
        wide, self._wide = self._wide, Candidates()
        count = clear.count + wide.count + self._border.count + len(orphans)
        pool = self._pool
        if pool is not None:
            pool.waiting.add(wide)
        else:
            pool = Pool(self._counted_before, self._before_s, outer=wide.count)
            self._judge_wide(wide, count)
        pool.waiting.add(clear)
        pool.seen = [one + more for one, more in zip(pool.seen, self._new)]
        for orphan in orphans:
            self._take_orphan(pool, orphan)
        self._pool = pool if self._judge(pool, *self._counted) else None
        self._before, self._before_count = self._bounds, count

    def reassign(self) -> None:
        """Ask anew who serves each open socket: listeners came or went. What was counted stays where it is."""
        for socket in self._sockets.values():
            group = self._group(socket.raw_port, socket.family, socket.source)
            if group != socket.group:
                self._uncount(socket)
                socket.group = group
                if socket.ulp is not None and not socket.closing:
                    self._count(socket)

    def finish(self) -> None:
        """Nobody looks at the namespace any longer: what waits for a judgement will not get one."""
        held = self.held()
        self._unattributed.add(held.sent, held.received)
        for tally in self._tallies.values():
            tally.open = 0
        self._sockets.clear()
        self._clear, self._border, self._wide, self._judged = Candidates(), Candidates(), Candidates(), None
        self._pool = None

    def absorb(self, other: Ledger) -> None:
        """Add the sums of a finished ledger to these."""
        for kind, tally in other._tallies.items():
            self._of(kind).add(tally.sent, tally.received)
        self._unattributed.add(other._unattributed.sent, other._unattributed.received)
        self._inferred.add(other._inferred.sent, other._inferred.received)
        self._presumed.add(other._presumed.sent, other._presumed.received)
        self.clients = [one + more for one, more in zip(self.clients, other.clients)]
        for key, (ended, cut) in other.ends.items():
            self._add_end(key, ended, cut)
        self.vanished += other.vanished

    # what is known

    @property
    def destroyed(self) -> int:
        """Connections of serving ports that ended."""
        return sum(ended for ended, _ in self.ends.values())

    @property
    def unsettled(self) -> bool:
        """Whether :meth:`settle` has something to do."""
        return self._judged is not None

    @property
    def judged_s(self) -> float:
        """All that ended before this moment has been judged: the full dump after which the oldest that waits ended."""
        if self._pool is not None and self._pool.pending:
            return self._pool.began_s
        return self._full_s if self._judged is None else self._before_s

    @property
    def unseen(self) -> int:
        """Connections of serving ports that ended since the last full dump with their kind unknown."""
        return sum(found.count - found.others - found.peers for found in (self._clear, self._border))

    @property
    def open(self) -> int:
        """Sockets that are known, those of other ports too."""
        return len(self._sockets)

    @property
    def unattributed(self) -> Volume:
        """Bytes of which nobody knows whether they were kTLS."""
        return self._unattributed.volume()

    @property
    def inferred(self) -> Volume:
        """The part of :meth:`volumes` that follows from the kernel's counters."""
        return self._inferred.volume()

    @property
    def presumed(self) -> Volume:
        """The part of :attr:`inferred` that follows only if clients on this host have no kernel TLS."""
        return self._presumed.volume()

    def connections(self) -> dict[Kind, int]:
        """Return how many connections are open, as far as their kind was seen."""
        return {kind: tally.open for kind, tally in self._tallies.items() if tally.open}

    def volumes(self) -> dict[Kind, Volume]:
        """Return what is attributed."""
        return {kind: tally.volume() for kind, tally in self._tallies.items()}

    def held(self) -> Volume:
        """Return the bytes that wait for the next judgement."""
        waiting = [self._clear, self._border, self._wide]
        held = _Tally()
        if self._judged is not None:
            waiting.append(self._judged[0])
            for orphan in self._judged[1]:
                if orphan.group is not None:
                    held.add(orphan.tally.sent, orphan.tally.received)
        for candidates in waiting:
            held.add(*candidates.bytes)
        if self._pool is not None:
            held.add(*self._pool.bytes)
        for socket in self._sockets.values():
            if socket.group is not None and not (socket.counted or socket.final or socket.judged):
                held.add(socket.tally.sent, socket.tally.received)
        return held.volume()

    # how

    def _end(self, group: Group | None, path: str, unacked: int) -> None:
        """A connection ended. It was cut if the peer never acknowledged all that it was to get."""
        if group is not None:
            self._add_end((*group, path), 1, unacked > CUT_BYTES)

    def _add_end(self, key: EndKey, ended: int, cut: int) -> None:
        found = self.ends.setdefault(key, [0, 0])
        found[0] += ended
        found[1] += cut

    def _group(self, raw_port: int, family: int, source: bytes) -> Group | None:
        port = port_of(raw_port)
        process = self._owner(port, family, source)
        return None if process is None else (port, process)

    def _first_sight(self, row: Row) -> None:
        cookie, acked, received, tail, inode, state, family, raw_port, source, *_ = row
        group = self._group(raw_port, family, source)
        self._know(family, source)
        socket = self._sockets[cookie] = _Socket(raw_port, family, source, row[11:13], group, self._turn)
        self._look(socket, tail, inode, state, acked, received)
        if self._counted is None:  # it was there before us, and so were its bytes
            if socket.closing:
                socket.tally, socket.final = (self._elsewhere if group is None else self._unattributed), True
        else:
            socket.tally.add(acked, received)
        socket.acked, socket.received = acked, received

    def _look(self, socket: _Socket, tail: bytes, inode: int, state: int, acked: int, received: int) -> None:
        """See what the socket is, as long as that may change."""
        if inode == 0:
            if state not in (ESTABLISHED, CLOSE_WAIT):
                self._close(socket)
            return
        if socket.ulp is None or tail != socket.tail:
            socket.tail = tail
            ulp = _read(tail)
            if ulp != socket.ulp:
                held = socket.tally if socket.ulp is None else _Tally()
                self._uncount(socket)
                socket.ulp, socket.seen_s = ulp, self._now_s
                self._see_contexts(socket, ulp)
                self._count(socket)
                socket.tally.add(held.sent, held.received)
        elif received < LEAST_TLS_BYTES:
            socket.seen_s = self._now_s
        assert socket.ulp is not None
        before = socket.final
        socket.final = (
            (socket.ulp.tx != "none" and socket.ulp.rx != "none")
            or acked >= HANDSHAKE_BYTES
            or received >= HANDSHAKE_BYTES
            or self._now_s - socket.seen_s >= HANDSHAKE_S
        )
        if socket.final and not before and socket.group is None and self._is_peer(socket):
            self.clients[0] += 1

    def _see_contexts(self, socket: _Socket, ulp: _Ulp) -> None:
        """Count each context of the socket once; offload that was lost later is still the same context."""
        if socket.group is None and ulp is not _PLAIN:
            self._suspects.add(socket.raw_port)
            if self._is_peer(socket) and not socket.contexts:
                self.clients[1] += 1
            elif self._is_here(socket):
                self._suspects.add(socket.far[0])
        for direction, place in enumerate((ulp.tx, ulp.rx)):
            if place in ("sw", "hw") and not socket.contexts & (1 << direction):
                socket.contexts |= 1 << direction
                self._seen[2 * direction + (place == "hw")] += 1

    def _count(self, socket: _Socket) -> None:
        """Let the socket be one of its kind."""
        assert socket.ulp is not None
        socket.tally = self._elsewhere if socket.group is None else self._of(Kind(*socket.group, *socket.ulp))
        socket.tally.open += 1
        socket.counted = True

    def _uncount(self, socket: _Socket) -> None:
        if socket.counted:
            socket.tally.open -= 1
            socket.counted = False

    def _close(self, socket: _Socket) -> None:
        """The application is done with it. Unless its kind was final, what it moves from now on is held."""
        self._uncount(socket)
        if not (socket.closing or socket.final):
            if socket.ulp is not None:
                socket.tally = _Tally()
            socket.closing = True

    def _of(self, kind: Kind) -> _Tally:
        tally = self._tallies.get(kind)
        if tally is None:
            tally = self._tallies[kind] = _Tally()
        return tally

    def _cannot_be_tls(self, raw_port: int) -> bool:
        """Return whether connections of a port that is not ours open no contexts."""
        return raw_port not in self._suspects and self._harmless(port_of(raw_port))

    def _know(self, family: int, source: bytes) -> None:
        """Remember an address of this host: every socket's own is one."""
        address = plain_address(family, source)
        if address not in self._addresses:
            if len(self._addresses) >= _MOST_ADDRESSES:
                self._addresses.clear()
            self._addresses.add(address)

    def _is_here(self, socket: _Socket) -> bool:
        """Return whether the other end of a connection is on this host too."""
        return plain_address(socket.family, socket.far[1]) in self._addresses

    def _is_peer(self, socket: _Socket) -> bool:
        """Return whether it is the client's end of a connection to a server of ours on this host."""
        port, address = socket.far
        return self._is_here(socket) and self._owner(port_of(port), socket.family, address) is not None

    def _stranger(self, socket: _Socket) -> int:
        """Return what a connection of a port that is not ours may be."""
        if self._cannot_be_tls(socket.raw_port):
            return _NO_TLS
        if self._is_peer(socket):
            return _PEER
        # It cannot speak TLS with a program of this host that does not.
        return _NO_TLS if self._is_here(socket) and self._cannot_be_tls(socket.far[0]) else _OTHER

    def _candidate(self, socket: _Socket, sent: int, got: int, received: int) -> None:
        """Hold what a connection had, or its last growth, until the next judgement; ``received`` is since its start."""
        if socket.group is None:
            self._foreign(socket, received)
        elif not socket.contexts:
            self._unseen_end(socket.group, sent, got, received)
        elif socket.ulp is None:
            self._waiting.others += 1
        else:
            self._waiting.halves.append((socket, sent, got))

    def _foreign(self, socket: _Socket, received: int) -> None:
        """Count a connection that is not ours, if it may have opened contexts."""
        what = self._stranger(socket)
        if what != _NO_TLS and (socket.contexts or received >= LEAST_TLS_BYTES):
            self._waiting.peers += what == _PEER
            self._waiting.own += what == _PEER and self._is_probe(socket, received)
            self._waiting.others += what == _OTHER

    def _unseen_end(self, group: Group, sent: int, got: int, received: int) -> None:
        """Hold the bytes of a connection of ours that was not seen with a context."""
        if received < LEAST_TLS_BYTES:
            self._of(Kind(*group, *_PLAIN)).add(sent, got)
        else:
            self._waiting.groups[group].append((sent, got))

    @property
    def _waiting(self) -> Candidates:
        return self._clear if self._judged is None else self._border

    def _is_probe(self, socket: _Socket, received: int) -> bool:
        """Return whether a client's end was the agent's own download: by where it went, and by its size."""
        size = received - PROBE_SIZE
        return self._probe_port == port_of(socket.far[0]) and 0 <= size <= _PROBE_MORE

    def _presume(self, *waiting: Candidates) -> bool:
        """Whether clients on this host are taken for such without contexts."""
        looked_at, with_ktls = self.clients
        return not with_ktls and (looked_at > 0 or all(one.peers == one.own for one in waiting))

    def _take_orphan(self, pool: Pool, orphan: _Socket) -> None:
        """A socket that its application has closed waits for its kind like one that is gone."""
        if orphan.group is None:
            pool.waiting.peers += self._is_peer(orphan)
            pool.waiting.own += self._is_peer(orphan) and self._is_probe(orphan, orphan.received)
            pool.waiting.others += not self._is_peer(orphan)
            orphan.tally, orphan.final, orphan.judged = self._elsewhere, True, False
        elif orphan.contexts:
            held, orphan.final, orphan.judged = orphan.tally, True, False
            orphan.tally = self._half(orphan, self._bounds)
            orphan.tally.add(held.sent, held.received)
            pool.waiting.others += 1
        else:
            pool.closing[orphan.group].append(orphan)

    def _judge(self, pool: Pool, before: Contexts, after: Contexts) -> bool:
        """Attribute what can be told of those in the pool. Return whether it goes on beyond this dump."""
        border = self._border
        presume = self._presume(pool.waiting, border)
        unseen = Bounds() if self._fell else pool.bounds((before, after), self._complete)
        findings = [(group, pool.finding(group, unseen, border, presume)) for group in pool.groups]
        halves = [pool.half(half, unseen, border, presume) for half in pool.waiting.halves]
        for group, finding in findings:
            if whole(finding, len(pool.volumes(group))):
                self._attribute(pool, group, finding)
        for found in halves:
            if found.ulp is not None:
                self._attribute_half(pool, found)
        sound, sharp = self._complete and not self._fell, border.count == 0 and before == after
        if not pool.pending:
            pool.waits = 0
            # Contexts of nobody that is known: a notice is late, and would find them judged without it.
            late = sound and any(pool.bounds((before, after), self._complete).least)
            pool.late = pool.late + 1 if late else 0
            # Those of the border are to be judged with the time before it, unless that has nothing to tell. And a time
            # that began while contexts were opened would be in doubt by them for ever.
            goes_on = border.count > 0 or before != after or 0 < pool.late <= MOST_LATE
            return sound and goes_on and any(unseen.most) and not pool.strangers(presume)
        pool.waits += 1
        if sound and not sharp and not pool.full and not pool.hopeless(unseen, presume):
            return True
        for group, finding in findings:
            if not whole(finding, len(pool.volumes(group))):
                self._attribute(pool, group, finding)
        for _, sent, received in pool.waiting.halves:
            self._unattributed.add(sent, received)
        return False

    def _attribute(self, pool: Pool, group: Group, finding: Finding) -> None:
        volumes = pool.volumes(group)
        if not volumes:
            return
        sent, received = sum(volume[0] for volume in volumes), sum(volume[1] for volume in volumes)
        rest = self._unattributed
        closing = pool.closing.get(group, [])
        for part, presumed in zip(finding.parts, finding.presumed):
            tally = self._of(Kind(*group, "", "", part.tx, part.rx))
            for target in (tally, self._inferred):
                target.add(part.sent, part.received)
            self._presumed.add(*presumed)
            sent, received = sent - part.sent, received - part.received
            if part.number == len(volumes):
                rest = _Sum(tally, self._inferred, self._presumed) if finding.presumes else tally
                pool.resolve(group, part, finding.presumes)
        self._unattributed.add(sent, received)
        for socket in closing:
            socket.tally, socket.final, socket.judged = rest, True, False

    def _attribute_half(self, pool: Pool, found: HalfFinding) -> None:
        socket, sent, received = found.half
        assert found.ulp is not None
        port, process = socket.group
        tx, rx = found.ulp
        self._of(Kind(port, process, socket.ulp.version, socket.ulp.cipher, tx, rx)).add(sent, received)
        if (tx, rx) != (socket.ulp.tx, socket.ulp.rx):
            self._inferred.add(sent, received)
        if found.presumed:
            self._presumed.add(sent, received)
        pool.resolve_half(found)

    def _judge_wide(self, wide: Candidates, count: int) -> None:
        """Judge those at the start of a new pool: they may be of the time before it, so by both times."""
        both = self._bounds + self._before
        others = count + self._before_count - wide.count
        for group, volumes in wide.groups.items():
            parts = infer.attribute(volumes, others + wide.count - len(volumes), both)
            sent, received = sum(volume[0] for volume in volumes), sum(volume[1] for volume in volumes)
            for part in parts:
                for target in (self._of(Kind(*group, "", "", part.tx, part.rx)), self._inferred):
                    target.add(part.sent, part.received)
                sent, received = sent - part.sent, received - part.received
            self._unattributed.add(sent, received)
        for socket, sent, received in wide.halves:
            self._half(socket, both).add(sent, received)

    def _half(self, socket: _Socket, unseen: Bounds) -> _Tally:
        """Return who gets the last bytes of a socket that was seen with one direction in the kernel.

        It stayed so unless the other direction followed.
        """
        assert socket.group is not None and socket.ulp is not None
        tx, rx = socket.contexts & 1, socket.contexts & 2
        open_to = (0 if tx else unseen.most.tx_sw + unseen.most.tx_hw) + (
            0 if rx else unseen.most.rx_sw + unseen.most.rx_hw
        )
        return self._unattributed if open_to else self._of(Kind(*socket.group, *socket.ulp))

    def _closed_late(self, group: Group | None, sent: int, received: int, data_s: float) -> None:
        """Take a connection that was alive at ``data_s``, before the last full dump, and was in no dump.

        It had ended before, and the application has closed it only now. Between the dumps around ``data_s`` it was
        opened, so its context, if it had one, was counted then.
        """
        if group is None:
            return
        bounds = [past.unseen for past in self._past if past.began_s <= data_s and data_s - _DELAY_S <= past.ended_s]
        known = bool(bounds) and self._past[0].began_s <= data_s - _DELAY_S
        if known and not any(number for bound in bounds for number in bound.most):
            self._of(Kind(*group, *_PLAIN)).add(sent, received)
            self._inferred.add(sent, received)
        else:
            self._unattributed.add(sent, received)

    def _vanish(self, cookie: int, socket: _Socket) -> None:
        """It is in no dump, and notices were lost: its own was one of them, and its last bytes are lost with it."""
        del self._sockets[cookie]
        if socket.group is None:
            return
        self.vanished += 1
        held = not (socket.counted or socket.final)
        self._uncount(socket)
        if held:
            self._unattributed.add(socket.tally.sent, socket.tally.received)
        # Should the notice come after all, the bytes that are counted already must not count again.
        if len(self._forgotten) >= _MOST_FORGOTTEN:
            del self._forgotten[next(iter(self._forgotten))]
        self._forgotten[cookie] = (socket.acked, socket.received)


def _path(socket: _Socket) -> str:
    """Return how the socket sent at its end, as far as that was seen."""
    if socket.contexts & 1:
        return "ktls"
    return "userspace" if socket.final and socket.ulp is not None else "unknown"


def _read(tail: bytes) -> _Ulp:
    ulp = ulp_of(tail)
    if ulp is None or ulp.name != "tls":
        return _PLAIN
    if ulp.tx == ulp.rx == "none":
        return _PLAIN  # the ULP is there and no key yet
    return _Ulp(ulp.version or "", ulp.cipher or "", ulp.tx, ulp.rx)
