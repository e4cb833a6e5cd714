# SPDX-License-Identifier: Apache-2.0
"""Listeners, the set of connections, the mode, and the clock that ends what is overdue."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from ktls_host.errors import KtlsError

from . import ulp
from .accesslog import AccessLog
from .config import Config, Listen
from .connection import Connection, Shared
from .counters import Counters
from .metrics import render
from .mode import TX, USERSPACE, ModeSwitch
from .notify import notify
from .openssl import Library, OpenSSLError, ServerContext, TlsConnection
from .poller import Poller
from .version import VERSION
from .web.settings import Settings
from .web.site import Site

TICK_S = 0.25
_ACCEPT_BATCH = 32
_ACCEPT_PAUSE_S = 0.5
_OVERLOAD_SPARE = 64
_BACKLOG = 1024


class Server:
    """The sidecar without its control socket. :meth:`start`, then :meth:`drain`."""

    def __init__(
        self,
        config: Config,
        lib: Library,
        log: TextIO | None = None,
        complain: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    ) -> None:
        """Read certificate and key. Raises KtlsError ``bad_certificate``, ``bad_config``."""
        self._config = config
        self._lib = lib
        self._complain = complain
        self._context = load_context(lib, config)
        self._check_root()
        self._started_at = time.monotonic()
        self.mode = ModeSwitch(config.off_flags, self._mode_changed)
        self.counters = Counters()
        self._log = AccessLog(log if config.access_log else None)
        self._shared: Shared | None = None
        self._listeners: list[socket.socket] = []
        self._connections: set[Connection] = set()
        self._empty: asyncio.Future[None] | None = None
        self._ticker: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The first listener's port; 0 when nothing listens."""
        return int(self._listeners[0].getsockname()[1]) if self._listeners else 0

    async def start(self) -> None:
        """Bind and accept. Raises KtlsError ``port_in_use``, ``bind_failed``."""
        try:
            for listen in self._config.listen:
                sock = self._bind(listen)
                if sock is not None:
                    self._listeners.append(sock)
            if not self._listeners:
                message = "none of the addresses in 'listen' exists on this host; correct 'listen'"
                raise KtlsError("bind_failed", message)
        except KtlsError:
            self._close_listeners()
            raise
        loop = asyncio.get_running_loop()
        complain = self._complain
        self._shared = Shared(
            config=self._config,
            counters=self.counters,
            log=self._log,
            fault=lambda kind, remote, detail: complain(f"{kind} {remote}: {detail}"),
            can_rekey=ulp.can_rekey(self._lib.version),
            loop=loop,
            poller=Poller(loop),
            site=Site(self._config.root, Settings()),
        )
        for sock in self._listeners:
            loop.add_reader(sock.fileno(), self._accept, sock)
        self._ticker = loop.create_task(self._tick())

    async def drain(self, seconds: float) -> None:
        """Stop accepting, let running responses finish for up to ``seconds``, then cut the rest."""
        self._close_listeners()
        for connection in list(self._connections):
            connection.retire(ktls_allowed=True)
        if self._connections:
            self._empty = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._empty], timeout=seconds)
            for connection in list(self._connections):
                connection.abort()
        if self._ticker is not None:
            self._ticker.cancel()
        if self._shared is not None:
            self._shared.poller.close()
        self._log.flush()

    def reload(self) -> None:
        """Read certificate and key again, for new connections. Raises KtlsError; then the old ones stay in use."""
        self._context = load_context(self._lib, self._config)

    def status(self) -> dict[str, Any]:
        """Return the status object of the control socket."""
        effective = self.mode.effective()
        return {
            "version": VERSION,
            "pid": os.getpid(),
            "mode": self.mode.ordered,
            "effective_mode": effective,
            "off_flag": self.mode.off_flag(),
            "port": self.port,
            "uptime_s": round(time.monotonic() - self._started_at, 3),
            "openssl": self._lib.version_text,
            **self.counters.status(),
        }

    def metrics(self) -> str:
        """Return Prometheus text."""
        mode = self.mode.effective()
        return render(self.counters, mode, self.mode.off_flag(), VERSION, self._lib.version_text)

    # --- connections ----------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(_ACCEPT_BATCH):
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
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert self._shared is not None  # set by start
        remote = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
        assigned = self.mode.effective()
        refusal: str | None = None
        if assigned != USERSPACE:
            refusal = "peer" if remote in self._shared.peers else ulp.attach(sock)
            if refusal == "ulp_enotconn":
                raise ConnectionResetError(errno.ENOTCONN, "the client left before it was accepted")
        kernel = assigned != USERSPACE and refusal is None
        tls = TlsConnection(self._context, sock.fileno(), kernel)
        overloaded = open_now >= self._config.max_connections
        connection = Connection(self._shared, sock, remote, tls, self._ended, assigned, refusal, overloaded)
        connection.start()
        self._connections.add(connection)

    def _ended(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if self._empty is not None and not self._connections and not self._empty.done():
            self._empty.set_result(None)

    def _mode_changed(self, mode: str) -> None:
        for connection in list(self._connections):
            connection.retire(ktls_allowed=mode == TX)
        self._complain(f"mode is now {mode}")
        notify(f"STATUS=mode {mode}, port {self.port}")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.mode.effective()
            now = time.monotonic()
            for connection in list(self._connections):
                connection.check(now)
            self._log.flush()

    # --- sockets and files ----------------------------------------------------------------------------------

    def _bind(self, listen: Listen) -> socket.socket | None:
        family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
        sock: socket.socket | None = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((listen.host, listen.port))
            # Linux tells of a port in use here when the other socket was only bound first.
            sock.listen(_BACKLOG)
        except OSError as error:
            if sock is not None:
                sock.close()
            if family == socket.AF_INET6 and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                self._complain(f"this host has no IPv6: not listening on [{listen.host}]:{listen.port}")
                return None
            raise _bind_error(listen, error) from error
        return sock

    def _close_listeners(self) -> None:
        loop = asyncio.get_running_loop()
        for sock in self._listeners:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._listeners.clear()

    def _check_root(self) -> None:
        root = self._config.root
        try:
            os.close(os.open(os.path.join(root, "."), os.O_PATH | os.O_DIRECTORY))
        except OSError as error:
            raise KtlsError(
                "bad_config",
                f"cannot read the directory to serve, {root} ({error.strerror});"
                " create it and give user ktls-sidecar read access, or change 'root'",
            ) from error


def _bind_error(listen: Listen, error: OSError) -> KtlsError:
    where = f"[{listen.host}]:{listen.port}" if ":" in listen.host else f"{listen.host}:{listen.port}"
    if error.errno == errno.EADDRINUSE:
        return KtlsError(
            "port_in_use",
            f"cannot listen on {where}: the port is in use; see who has it with 'ss -ltnp sport = :{listen.port}',"
            " stop that or change 'listen'",
        )
    cure = "use a port above 1023" if error.errno == errno.EACCES else "correct 'listen' in the configuration"
    return KtlsError("bind_failed", f"cannot listen on {where} ({error.strerror}); {cure}")


def load_context(lib: Library, config: Config) -> ServerContext:
    """Read certificate and key. Raises KtlsError ``bad_certificate`` or ``bad_config``."""
    key = config.key_path()
    _check_readable("certificate", config.certificate)
    _check_readable("key", key)
    try:
        return ServerContext(lib, config.certificate, key)
    except OpenSSLError as error:
        what = {
            "SSL_CTX_use_certificate_chain_file": f"the TLS certificate {config.certificate} is not usable",
            "SSL_CTX_use_PrivateKey_file": f"the TLS key {key} is not usable with the certificate {config.certificate}",
            "SSL_CTX_check_private_key": f"the TLS key {key} does not belong to the certificate {config.certificate}",
        }.get(error.operation, "OpenSSL refuses the TLS settings")
        cure = "issue both again with the deploy playbook (PEM, leaf certificate first, key without passphrase)"
        raise KtlsError("bad_certificate", f"{what} ({error}); {cure}") from error


def _check_readable(what: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise KtlsError(
            "bad_certificate",
            f"cannot read the TLS {what} {path} ({error.strerror}); run the deploy playbook again, or correct"
            f" {what!r} in the configuration",
        ) from error
