# SPDX-License-Identifier: Apache-2.0
"""What one process serves: its set of connections, its mode, and the clock that ends what is overdue."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from ktls_host.errors import KtlsError

from . import certificates, listeners, ulp
from .accesslog import AccessLog
from .config import Config
from .connection import Connection, Shared
from .counters import Counters
from .leave import USUAL, Leave, is_back, seconds_of
from .merge import connections_open
from .mode import HW, RX, USERSPACE, ModeFollower, ModeSwitch
from .openssl import Library, OpenSSLError, ServerContext, TlsConnection
from .page import OrderPage
from .peers import Peers
from .poller import Poller
from .report import OK, Report
from .version import VERSION
from .web.site import Site

TICK_S = 0.25
_ACCEPT_BATCH = 32
_ACCEPT_PAUSE_S = 0.5
_OVERLOAD_SPARE = 64


class Server:
    """The serving part of the sidecar. :meth:`start`, then :meth:`drain`."""

    def __init__(
        self,
        config: Config,
        lib: Library,
        log: TextIO | None = None,
        complain: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
        context: ServerContext | None = None,
        mode_changed: Callable[[str], None] = lambda _mode: None,
        page: OrderPage | None = None,
        *,
        poller: Poller,
    ) -> None:
        """Take ``context``, or read certificate and key. Raises KtlsError ``bad_certificate``, ``bad_config``.

        ``page``: where somebody else orders the mode; without it that is for :meth:`order`. ``poller``: the selector of
        the loop that it is started in.
        """
        self._config = config
        self._lib = lib
        self._complain = complain
        self._context = context or certificates.load(lib, config, certificates.new_ticket_keys())
        check_root(config.root)
        self._started_at, self._started = time.monotonic(), time.time()
        self._tell_mode = mode_changed
        self._poller = poller
        self._previous_mode = USERSPACE
        self.leave = Leave(config.ktls_drain_s)
        self.mode: ModeFollower = (
            ModeSwitch(config.off_flags, self._mode_changed)
            if page is None
            else ModeFollower(config.off_flags, self._mode_changed, page)
        )
        if self.mode.ordered != USERSPACE:
            self._previous_mode = self.mode.ordered
        self.counters = Counters()
        self._site = Site(config.root, config.files)
        self._log = AccessLog(log if config.access_log else None)
        self._shared: Shared | None = None
        self._listeners: list[socket.socket] = []
        self._accept_batch = _ACCEPT_BATCH
        self._connections: set[Connection] = set()
        self._empty: asyncio.Future[None] | None = None
        self._ticker: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The first listener's port; 0 when nothing listens."""
        return int(self._listeners[0].getsockname()[1]) if self._listeners else 0

    async def start(self, sockets: Sequence[socket.socket] | None = None, shared: bool = False) -> None:
        """Accept from ``sockets``, or from those that the configuration names.

        ``shared``: other processes accept from them too, so that one takes one connection at a time.
        Raises KtlsError ``port_in_use``, ``bind_failed``.
        """
        if sockets is None:
            listeners.refuse_neighbours(self._config.listen)
            (sockets,) = listeners.bind_all(self._config.listen, 1, self._complain)
        self._accept_batch = 1 if shared else _ACCEPT_BATCH
        self._listeners = list(sockets)
        loop = asyncio.get_running_loop()
        complain = self._complain
        self._shared = Shared(
            config=self._config,
            counters=self.counters,
            log=self._log,
            fault=lambda kind, remote, detail: complain(f"{kind} {remote}: {detail}"),
            can_rekey=ulp.can_rekey(self._lib.version),
            loop=loop,
            poller=self._poller,
            site=self._site,
            peers=Peers(self._config.key_update_memory_s),
            look=self.mode.effective,
        )
        for sock in self._listeners:
            # Inherited by what is accepted (net/ipv4/tcp_minisocks.c copies the listener).
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            loop.add_reader(sock.fileno(), self._accept, sock)
        self._ticker = loop.create_task(self._tick())

    async def drain(self, seconds: float) -> None:
        """Stop accepting, let running responses finish for up to ``seconds``, then cut the rest."""
        if seconds > 0 and self._accept_batch > 1:
            # Who waits in a queue of our own would be reset.
            for listener in self._listeners:
                self._accept(listener)
        self._close_listeners()
        for connection in list(self._connections):
            connection.retire(ktls_allowed=True)
        if self._connections:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=seconds)
            self.cut()
        if self._ticker is not None:
            self._ticker.cancel()
        self._poller.forget()
        self._log.flush()

    def cut(self) -> None:
        """End all connections now; a :meth:`drain` under way is then done."""
        for connection in list(self._connections):
            connection.abort()

    def load_again(self, ticket_keys: bytes) -> ServerContext:
        """Read certificates and keys anew for :meth:`use`. Raises KtlsError."""
        return certificates.load(self._lib, self._config, ticket_keys)

    def use(self, context: ServerContext) -> None:
        """Take ``context`` for new connections."""
        self._context = context

    def reload(self) -> None:
        """Read certificates and keys again, for new connections. Raises KtlsError; then the old ones stay in use."""
        self.use(self.load_again(certificates.new_ticket_keys()))

    # --- seen by the control socket, when this process is the whole sidecar ------------------------------------------

    async def order(self, mode: object, share: object, drain_s: object = USUAL, tls12: object = False) -> None:
        """Change the mode; see :meth:`ModeSwitch.order`. Raises RequestError ``bad_drain`` too."""
        assert isinstance(self.mode, ModeSwitch)  # others are told by their page
        seconds = None if drain_s is USUAL else seconds_of(drain_s)
        self.mode.order(mode, share, tls12)
        if drain_s is not USUAL:
            self.leave.begin(seconds, time.monotonic())

    async def report(self, fresh: bool = True) -> Report:
        """Return everything, now."""
        effective, counts, now = self.mode.effective(), self.counters.snapshot(), time.monotonic()
        connections = connections_open(counts)
        serving = bool(self._listeners)
        return {
            "now": now,
            "version": VERSION,
            "openssl": self._lib.version_text,
            "pid": os.getpid(),
            "port": self.port,
            "uptime_s": round(now - self._started_at, 3),
            "mode": self.mode.ordered,
            "share": self.mode.share,
            "tls12": self.mode.tls12,
            "effective_mode": effective,
            "off_flag": self.mode.off_flag(),
            "drain_until": self.leave.until,
            "health": OK if serving else "draining",
            "workers": [
                {
                    "pid": os.getpid(),
                    "connections": connections,
                    "started": round(self._started, 3),
                    "serving": serving,
                }
            ],
            "counts": counts,
        }

    # --- connections ----------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(self._accept_batch):
            try:
                sock, address = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._accept_failed(listener, error)
                return
            try:
                self._take(sock, address)
            except (OSError, OpenSSLError) as error:
                sock.close()
                if isinstance(error, OpenSSLError):
                    self.counters.errors["ssl_error"] += 1
                    self._complain(f"ssl_error: cannot prepare a connection: {error}")
                else:
                    self.counters.client_aborts["handshake"] += 1

    def _accept_failed(self, listener: socket.socket, error: OSError) -> None:
        # No descriptors or memory: the connection stays queued, so polling on would only burn CPU.
        name = errno.errorcode.get(error.errno or 0, "unknown").lower()
        self.counters.errors[f"accept_{name}"] += 1
        self._complain(f"cannot accept a connection ({error.strerror}); raise LimitNOFILE= of ktls-sidecar.service")
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener.fileno())
        loop.call_later(_ACCEPT_PAUSE_S, self._accept_again, listener)

    def _accept_again(self, listener: socket.socket) -> None:
        if listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._accept, listener)

    def _take(self, sock: socket.socket, address: Any) -> None:
        open_now = len(self._connections)
        if open_now >= self._config.max_connections + _OVERLOAD_SPARE:
            self.counters.rejected += 1
            sock.close()
            return
        sock.setblocking(False)
        assert self._shared is not None  # set by start
        remote = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
        assigned = self.mode.draw()
        refusal: str | None = None
        if assigned != USERSPACE:
            refusal = "peer" if remote in self._shared.peers else ulp.attach(sock)
            if refusal == "ulp_enotconn":
                raise ConnectionResetError(errno.ENOTCONN, "the client left before it was accepted")
        kernel = refusal is None
        tls = TlsConnection(self._context, sock.fileno(), kernel and assigned != USERSPACE, kernel and assigned == RX)
        overloaded = open_now >= self._config.max_connections
        tls12 = kernel and assigned == HW and self.mode.tls12
        connection = Connection(self._shared, sock, remote, tls, self._ended, assigned, refusal, overloaded, tls12)
        connection.start()
        self._connections.add(connection)

    def _ended(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._empty is not None and not self._connections and not self._empty.done():
            self._empty.set_result(None)

    def _mode_changed(self, mode: str) -> None:
        # A handshake under way keeps what it drew only if the host does not go back a step.
        before, self._previous_mode = self._previous_mode, mode
        allowed = mode != USERSPACE and not is_back(before, mode)
        self.leave.moved(before, mode, time.monotonic())
        for connection in list(self._connections):
            connection.retire(ktls_allowed=allowed)
        self._tell_mode(mode)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            mode, now = self.mode.effective(), time.monotonic()
            for connection in list(self._connections):
                connection.check(now)
            if self.leave.until is not None and now >= self.leave.until and self.counters.not_ordered(mode):
                for connection in list(self._connections):
                    connection.drop_unordered(mode)
            self._log.flush()

    def _close_listeners(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._listeners:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()


def check_root(root: str) -> None:
    """Raise KtlsError ``bad_config`` when the directory to serve cannot be used."""
    try:
        os.close(os.open(os.path.join(root, "."), os.O_PATH | os.O_DIRECTORY))
    except OSError as error:
        raise KtlsError(
            "bad_config",
            f"cannot read the directory to serve, {root} ({error.strerror});"
            " create it and give user ktls-sidecar read access, or change 'root'",
        ) from error
