# SPDX-License-Identifier: Apache-2.0
"""The sockets that clients connect to: bound here, or taken from systemd."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ktls_host.errors import KtlsError

from .config import Listen

_FIRST_FD = 3  # sd_listen_fds(3): SD_LISTEN_FDS_START
_BACKLOG = 4096  # the kernel cuts it to net.core.somaxconn


@dataclass
class Listeners:
    """Sockets that listen, one list for each worker. ``shared``: it is the same list for all."""

    of_worker: list[list[socket.socket]]
    shared: bool = False

    @property
    def port(self) -> int:
        """The first socket's port; 0 when nothing listens."""
        first = self.of_worker[0] if self.of_worker else []
        return int(first[0].getsockname()[1]) if first and first[0].fileno() >= 0 else 0

    def close(self) -> None:
        """Close our copies. A worker's queue of clients ends when the last copy is closed."""
        for sockets in self.of_worker:
            for sock in sockets:
                sock.close()


def open_listeners(wanted: Sequence[Listen], workers: int, complain: Callable[[str], None]) -> Listeners:
    """Return what systemd passed, else bind ``wanted`` for each worker. Raises those of the two functions below."""
    given = take_activated()
    if given:
        complain("using the sockets of ktls-sidecar.socket; 'listen' of the configuration is not looked at")
        return Listeners([given] * workers, shared=True)
    refuse_neighbours(wanted)
    return Listeners(bind_all(wanted, workers, complain))


def take_activated() -> list[socket.socket]:
    """Return the sockets that systemd passed to this very process, and forget that it did. sd_listen_fds(3).

    There is one socket for each address and all workers accept from it: the kernel wakes all that wait, the first takes
    the connection, so that load goes to workers with nothing to do, at the price of the other wake-ups. asyncio cannot
    wait with EPOLLEXCLUSIVE (epoll_ctl(2)), and SO_REUSEPORT groups are only for sockets of one user (socket(7)), while
    systemd's are root's. Sockets of our own have neither cost, so activation is for ports below 1024.

    Raises KtlsError ``bad_activation``.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit() or int(count) == 0:
        return []
    return [_activated(number) for number in range(_FIRST_FD, _FIRST_FD + int(count))]


def _activated(number: int) -> socket.socket:
    sock: socket.socket | None = None
    try:
        sock = socket.socket(fileno=number)
        if (
            sock.family in (socket.AF_INET, socket.AF_INET6)
            and sock.type == socket.SOCK_STREAM
            and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        ):
            sock.setblocking(False)
            os.set_inheritable(number, False)
            return sock
    except OSError:
        pass
    if sock is not None:
        sock.close()
    raise KtlsError(
        "bad_activation",
        f"descriptor {number} of the socket unit is no listening TCP socket; use ListenStream=ADDRESS:PORT and"
        " Accept=no in it",
    )


def bind_all(wanted: Sequence[Listen], workers: int, complain: Callable[[str], None]) -> list[list[socket.socket]]:
    """Bind each address once for each worker: with SO_REUSEPORT the kernel spreads connections over them (socket(7)).

    Raises KtlsError ``port_in_use``, ``bind_failed``.
    """
    of_worker: list[list[socket.socket]] = [[] for _ in range(workers)]
    try:
        for listen in wanted:
            port = listen.port
            for sockets in of_worker:
                # With port 0 the kernel has chosen for the first worker.
                sock = bind(Listen(listen.host, port), complain)
                if sock is None:
                    break
                sockets.append(sock)
                port = int(sock.getsockname()[1])
        if not of_worker[0]:
            raise KtlsError("bind_failed", "none of the addresses in 'listen' exists on this host; correct 'listen'")
    except KtlsError:
        Listeners(of_worker).close()
        raise
    return of_worker


def refuse_neighbours(wanted: Sequence[Listen]) -> None:
    """Raise KtlsError ``port_in_use`` when somebody listens already, a process of the same user included.

    SO_REUSEPORT would share the port with that one, silently; a bind without it does not.
    """
    for listen in wanted:
        if listen.port:
            sock = _bound(listen, reuse_port=False)
            if sock is not None:
                sock.close()


def bind(listen: Listen, complain: Callable[[str], None]) -> socket.socket | None:
    """Return a listening socket; None when the host has no IPv6. Raises KtlsError ``port_in_use``, ``bind_failed``."""
    sock = _bound(listen, reuse_port=True)
    if sock is None:
        complain(f"this host has no IPv6: not listening on [{listen.host}]:{listen.port}")
        return None
    try:
        # Linux tells of a port in use here when the other socket was only bound first.
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise _bind_error(listen, error) from error
    return sock


def _bound(listen: Listen, reuse_port: bool) -> socket.socket | None:
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    sock: socket.socket | None = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((listen.host, listen.port))
    except OSError as error:
        if sock is not None:
            sock.close()
        if family == socket.AF_INET6 and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
            return None
        raise _bind_error(listen, error) from error
    return sock


def _bind_error(listen: Listen, error: OSError) -> KtlsError:
    where = f"[{listen.host}]:{listen.port}" if ":" in listen.host else f"{listen.host}:{listen.port}"
    if error.errno == errno.EADDRINUSE:
        return KtlsError(
            "port_in_use",
            f"cannot listen on {where}: the port is in use; see who has it with 'ss -ltnp sport = :{listen.port}',"
            " stop that or change 'listen'",
        )
    cure = "enable ktls-sidecar.socket or use a port above 1023" if error.errno == errno.EACCES else ""
    return KtlsError(
        "bind_failed", f"cannot listen on {where} ({error.strerror}); {cure or 'correct listen in the configuration'}"
    )
