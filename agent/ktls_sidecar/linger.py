# SPDX-License-Identifier: Apache-2.0
"""Say goodbye so that the client gets everything."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import fcntl
import socket
import termios
import time
from collections.abc import Callable

from .openssl import TlsConnection, TlsError

_POLL_S, _POLL_MAX_S = 0.002, 0.1
_TCP_CLOSE = 7  # include/net/tcp_states.h
_OPEN, _FINISHED, _GONE = 0, 1, 2
"""The client may send more; it has ended its side, and may still read; there is nobody any more."""


class Linger:
    """Waits until the client has everything, and gives it ``linger_s`` seconds to close first; then calls ``done``.

    What the kernel took for kTLS may still wait outside of TCP's queue, because that was full. A FIN or a close
    would overtake and drop it (net/tls/tls_sw.c, tls_sw_release_resources_tx). So close_notify goes out when the
    queue is empty, which pushes the rest before it; it is the end of the stream to a TLS client, and the
    connection is not half-closed. A close with unread input would reset the connection, so input is dropped.
    The owner calls :meth:`poke` for each event of the socket and a few times a second.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        tls: TlsConnection,
        ktls: bool,
        linger_s: float,
        send_timeout_s: float,
        scratch: ctypes.Array[ctypes.c_char],
        done: Callable[[TlsError | None], None],
    ) -> None:
        """``ktls``: the kernel encrypts. ``scratch`` is memory that input may be dropped into."""
        self._loop = loop
        self._sock = sock
        self._tls = tls
        self._ktls = ktls
        self._linger_s = linger_s
        self._send_timeout_s = send_timeout_s
        self._scratch = scratch
        self._done = done
        self._notified = False
        self._before = -1
        self._patience = time.monotonic() + send_timeout_s
        self._pause = _POLL_S
        self._timer: asyncio.TimerHandle | None = None
        self.unsent = False
        """True when the client did not take all of it in time."""

    def start(self) -> None:
        """Begin; ``done`` may be called before this returns."""
        self._look()

    def poke(self) -> None:
        """Look now: the client did something, or some time has passed."""
        self.cancel()
        self._look()

    def cancel(self) -> None:
        """Stop; ``done`` is not called then."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        try:
            over = self._step()
        except TlsError as error:
            self._done(error)
            return
        if over:
            self._done(None)
            return
        if self._ktls and not self._notified:
            # Nothing else tells when the queue is empty; and only then the client learns that this is the end.
            self._timer = self._loop.call_later(self._pause, self._look)
            self._pause = min(_POLL_MAX_S, self._pause * 1.5)

    def _step(self) -> bool:
        """Return True when there is no reason to wait any longer."""
        state = self._drop_input()
        if state == _GONE:
            return True
        now, queued = time.monotonic(), self._queued()
        if not self._notified and (queued == 0 or not self._ktls):
            self._notified = self._tls.shutdown()
            self._before = -1
        if self._notified:
            if state == _FINISHED and (queued == 0 or not self._ktls):
                return True
            if queued == 0:
                self._patience = min(self._patience, now + self._linger_s)
        if queued != self._before:
            self._before = queued
            if queued:
                self._patience = now + self._send_timeout_s
        if now <= self._patience:
            return False
        self.unsent = queued > 0
        return True

    @property
    def delivered(self) -> bool:
        """True when the client has all of it, the goodbye included. Raises OSError."""
        return self._notified and self._queued() == 0

    def _queued(self) -> int:
        """Bytes that TCP has and the client has not acknowledged. SIOCOUTQ of tcp(7)."""
        count = ctypes.c_int(0)
        fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, count)
        return count.value

    def _drop_input(self) -> int:
        """Read and drop what there is, and say whether more may come."""
        try:
            while self._sock.recv_into(self._scratch):
                pass
        except (BlockingIOError, InterruptedError):
            return _OPEN
        except OSError as error:
            # With kTLS RX a record that is not data reads like this, and the client's close_notify is one.
            return _FINISHED if error.errno == errno.EIO else _GONE
        # After a FIN no error is read any more, not even a reset (SOCK_DONE in tcp_recvmsg_locked): so does answer
        # who closed before the goodbye came, and never acknowledges it. The first byte of tcp_info is the state.
        state = self._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        return _GONE if state == _TCP_CLOSE else _FINISHED
