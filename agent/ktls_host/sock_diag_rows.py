# SPDX-License-Identifier: Apache-2.0
"""TCP sockets as bare rows, for those who look at all of them again and again.

:mod:`ktls_host.sock_diag` reads each message into an object. That takes some 15 microseconds a socket; here a message
is one ``struct`` call, because its fields lie where they lay in the message before: the kernel writes the attributes in
one order (``inet_sk_diag_fill`` in net/ipv4/inet_diag.c), and where they lie otherwise they are searched for. What
follows ``struct tcp_info``, the ULP among it, is handed on as bytes, to be compared and read only when it changed.

Two sources: a dump, and the kernel's notice of each socket that is destroyed (SKNLGRP_INET_TCP_DESTROY and its IPv6
sister, include/uapi/linux/sock_diag.h), whose ``tcp_info`` is final. The notice has both ends of the connection, no
inode, no ULP, no control group, and always the state CLOSE (``inet_diag_handler_get_info`` in net/ipv4/inet_diag.c);
what was written and never acknowledged it still has (``tcp_diag_get_info`` in net/ipv4/tcp_diag.c).
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from . import sock_diag
from .errors import KtlsError
from .sock_diag import UlpInfo

# cookie, bytes acknowledged, bytes received, what follows tcp_info, inode, state, family, local port, local address,
# milliseconds since data came, bytes that were written and not acknowledged yet (a FIN is one of them), remote port,
# remote address
Row = tuple[int, int, int, bytes, int, int, int, int, bytes, int, int, int, bytes]

ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE, CLOSE_WAIT, LAST_ACK, LISTEN, CLOSING = 1, 4, 5, 7, 8, 9, 10, 11
OPEN = sum(1 << state for state in (ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT, LAST_ACK, CLOSING))
"""States of connections that have a socket of their own; the others are requests, listeners and what is left over."""

_DESTROY_GROUPS = 1 << 0 | 1 << 2  # SKNLGRP_INET_TCP_DESTROY is group 1, SKNLGRP_INET6_TCP_DESTROY group 3
_EVENT_BUFFER = 8 * 1024 * 1024
_SO_RCVBUFFORCE = 33  # socket(7); not in Python's socket module before 3.14
_DATAGRAM = 64 * 1024  # the kernel fills at most 32 KiB (netlink_dump)
_TIMEOUT_S = 5.0
LONGEST_DRAIN = 8192
"""Notices that one :meth:`Destroyed.drain` takes at most."""

_SOCK_DIAG_BY_FAMILY, _ERROR, _DONE = 20, 2, 3
_ATTRIBUTES = 88  # a nlmsghdr of 16 bytes, an inet_diag_msg of 72
_INFO, _ULP, _MARK, _CGROUP_ID = 2, 19, 15, 21
_QUIET_IN_INFO = 52  # tcpi_last_data_recv
_BYTES_IN_INFO = 120  # tcpi_bytes_acked; tcpi_bytes_received follows
# length, type, flags, sequence, family, state, port, remote port, address, remote address, cookie, idiag_wqueue, inode
_HEAD = "=IHHI4xBB2xHH16s16s4xQ8xI4xI"
_HEADER = struct.Struct("=IHHI")
_ATTRIBUTE = struct.Struct("=HH")


class Listener(NamedTuple):
    """A listening socket. ``cgroup`` is the id of the control group that opened it, 0 where the kernel does not say."""

    inode: int
    port: int
    family: int
    address: bytes
    cgroup: int


class Dumps:
    """Asks one network namespace for its sockets. Lives in the namespace of the thread that made it."""

    def __init__(self) -> None:
        """Open. Raises :class:`KtlsError`: ``sock_diag_failed``."""
        self._sock = _open(0)
        self._sock.settimeout(_TIMEOUT_S)
        self._sequence = 0
        self._layout = _ATTRIBUTES
        self._may_hide = not sock_diag.ulp_for_all()

    def close(self) -> None:
        """Close the socket, which holds the namespace."""
        self._sock.close()

    def rows(self, states: int = OPEN, port: int = 0) -> Iterator[list[Row]]:
        """Yield the sockets in ``states``, one list a datagram; with ``port``, those of that local port.

        Raises :class:`KtlsError`: ``need_net_admin`` when the kernel hides kernel TLS from us, ``sock_diag_failed``.
        """
        for _, rows in self._dump(states, port):
            yield rows

    def listeners(self) -> list[Listener]:
        """Return the listening sockets. Raises :class:`KtlsError` as :meth:`rows` does."""
        found = []
        for data, rows in self._dump(1 << LISTEN, 0):
            groups = cgroup_ids(data)
            for _, _, _, _, inode, _, family, port, address, *_ in rows:
                found.append(Listener(inode, port_of(port), family, address, groups.get(inode, 0)))
        return found

    def _dump(self, states: int, port: int) -> Iterator[tuple[bytes, list[Row]]]:
        for family in (socket.AF_INET, socket.AF_INET6):
            self._sequence = self._sequence % 0x7FFFFFFF + 1
            request = sock_diag.request(family, port, states)
            head = struct.pack("=IHHII", 16 + len(request), _SOCK_DIAG_BY_FAMILY, 0x301, self._sequence, 0)
            try:
                self._sock.sendto(head + request, (0, 0))
                yield from self._answer()
            except OSError as error:
                raise sock_diag.failed(error.strerror or str(error)) from error

    def _answer(self) -> Iterator[tuple[bytes, list[Row]]]:
        while True:
            data = self._sock.recv(_DATAGRAM)
            rows, self._layout, rest = split(data, self._layout, self._sequence)
            if rows:
                if self._may_hide:
                    self._must_see(data)
                yield data, rows
            if rest is not None:
                if rest < 0:
                    raise OSError(-rest, os.strerror(-rest))
                return

    def _must_see(self, data: bytes) -> None:
        """The kernel adds the mark exactly when it takes us for an administrator of the network."""
        length = _HEADER.unpack_from(data)[0]
        kinds = {kind for kind, _, _ in _walk(data, _ATTRIBUTES, length)}
        if not kinds & {_MARK, _ULP}:
            message = "the kernel hides kernel TLS from this process; before Linux 6.15 that takes CAP_NET_ADMIN"
            raise KtlsError("need_net_admin", message)
        self._may_hide = False


class Destroyed:
    """The notices of one network namespace. ``lost`` counts how often the kernel dropped some (ENOBUFS)."""

    def __init__(self) -> None:
        """Subscribe. Raises :class:`KtlsError`: ``sock_diag_failed``."""
        self._sock = _open(_DESTROY_GROUPS)
        self._sock.setblocking(False)
        self._layout = _ATTRIBUTES
        self.lost = 0
        # The limit of net.core.rmem_max is too low for a burst; CAP_NET_ADMIN may pass it.
        for option in (socket.SO_RCVBUF, _SO_RCVBUFFORCE):
            with contextlib.suppress(OSError):
                self._sock.setsockopt(socket.SOL_SOCKET, option, _EVENT_BUFFER)

    def close(self) -> None:
        """Close the socket, which holds the namespace."""
        self._sock.close()

    def drain(self) -> list[Row]:
        """Return the sockets destroyed since the last call, as far as the kernel told. Never waits."""
        found: list[Row] = []
        for _ in range(LONGEST_DRAIN):
            try:
                data = self._sock.recv(_DATAGRAM)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise sock_diag.failed(error.strerror or str(error)) from error
                self.lost += 1
                continue
            rows, self._layout, _ = split(data, self._layout, None)
            found += rows
        return found


def split(data: bytes, layout: int, sequence: int | None) -> tuple[list[Row], int, int | None]:
    """Return the rows of a datagram, where ``tcp_info`` lay in the last of them, and how a dump ended, if it did.

    ``layout`` is where it is looked for first. A dump ends with 0 or a negative error number. Messages that answer
    another request than ``sequence`` are passed over, and so is a socket without ``tcp_info``: it is none.
    """
    rows: list[Row] = []
    add = rows.append
    reader = _reader(layout)
    unpack, size = reader.unpack_from, reader.size
    offset, end = 0, len(data)
    while offset + 16 <= end:
        if offset + size <= end:
            (
                length, kind, _, seq, family, state, port, far_port, source, far, cookie, unacked, inode, info, code,
                quiet, acked, received,
            ) = unpack(data, offset)  # fmt: skip
            if code == _INFO and kind == _SOCK_DIAG_BY_FAMILY and size <= length <= end - offset:
                if sequence is None or seq == sequence:
                    tail = data[offset + layout + (info + 3 & -4) : offset + length]
                    add((
                        cookie, acked, received, tail, inode, state, family, port, source, quiet, unacked, far_port,
                        far,
                    ))  # fmt: skip
                offset += length + 3 & -4
                continue
        length, kind, _, seq = _HEADER.unpack_from(data, offset)
        if length < 16 or length > end - offset:
            break
        if sequence is None or seq == sequence:
            if kind in (_DONE, _ERROR):
                number = struct.unpack_from("=i", data, offset + 16)[0] if length >= 20 else 0
                return rows, layout, int(number) if number < 0 or kind == _DONE else -errno.EPROTO
            place = _info_place(data, offset, length) if kind == _SOCK_DIAG_BY_FAMILY else None
            if place is not None and place != layout:
                layout = place
                reader = _reader(layout)
                unpack, size = reader.unpack_from, reader.size
                continue
        offset += length + 3 & -4
    return rows, layout, None


def ulp_of(tail: bytes) -> UlpInfo | None:
    """Return the ULP in what followed ``tcp_info``."""
    for kind, start, length in _walk(tail, 0, len(tail)):
        if kind == _ULP:
            return sock_diag.read_ulp(tail[start : start + length])
    return None


def cgroup_ids(data: bytes) -> dict[int, int]:
    """Return INET_DIAG_CGROUP_ID (Linux 5.8) by inode, as far as the messages of a datagram have it."""
    found = {}
    for kind, _, _, payload in sock_diag.iter_messages(data):
        if kind == _SOCK_DIAG_BY_FAMILY and len(payload) >= 72:
            for attribute, start, length in _walk(payload, 72, len(payload)):
                if attribute == _CGROUP_ID and length == 8:
                    found[struct.unpack_from("=I", payload, 68)[0]] = struct.unpack_from("=Q", payload, start)[0]
    return found


def port_of(raw: int) -> int:
    """Return a port from its two bytes in network order, read as a native number."""
    return socket.ntohs(raw)


def _info_place(data: bytes, offset: int, length: int) -> int | None:
    """Return where the ``tcp_info`` of a message lies, from its start; None if it has none that is long enough."""
    for kind, start, size in _walk(data, offset + _ATTRIBUTES, offset + length):
        if kind == _INFO and size >= _BYTES_IN_INFO + 16:
            return start - 4 - offset
    return None


def _walk(data: bytes, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the type, start and length of each attribute's value."""
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            return
        yield kind & 0x3FFF, offset + 4, length - 4
        offset += length + 3 & -4


@lru_cache(maxsize=64)
def _reader(layout: int) -> struct.Struct:
    return struct.Struct(f"{_HEAD}{layout - _ATTRIBUTES}xHH{_QUIET_IN_INFO}xI{_BYTES_IN_INFO - _QUIET_IN_INFO - 4}xQQ")


def _open(groups: int) -> socket.socket:
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, sock_diag.NETLINK_SOCK_DIAG)
        try:
            sock.bind((0, groups))
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise sock_diag.failed(error.strerror or str(error)) from error
    return sock
