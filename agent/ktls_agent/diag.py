# SPDX-License-Identifier: Apache-2.0
"""The kernel's own view of the sidecar's sockets, for an agent without capabilities.

Before 6.15 Linux fills INET_DIAG_ULP_INFO only for CAP_NET_ADMIN (``tcp_diag_get_aux`` in net/ipv4/tcp_diag.c). So a
helper answers three questions over a socket that systemd opens: how many connections of each kind there are, what one
connection is, and all that :mod:`ktls_agent.evidence` knows. It takes no path, no command and no port of ours: those
come from the agent's configuration. Asked for evidence for the first time, it begins to look at the host, and goes on
for as long as it runs. It ends itself when nobody has asked for a while.
"""

from __future__ import annotations

import os
import select
import socket
import time
from typing import TYPE_CHECKING, Any, Callable

from ktls_host.errors import KtlsError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ktls_host.sock_diag import TcpConnection

    from .evidence.config import EvidenceConfig

IDLE_EXIT_S = 120.0
_PEER_TIMEOUT_S = 2.0
_LISTEN_FD = 3  # sd_listen_fds(3): the first descriptor passed
_MAX_REQUEST = 4096


Dump = Callable[[int, int], "list[TcpConnection]"]
"""From a local port and that of the peer (0: any) to the connections."""


def _dump(port: int, remote_port: int) -> list[TcpConnection]:
    from ktls_host import sock_diag

    return sock_diag.tcp_connections({port}, remote_port=remote_port)


def summary(connections: Iterable[TcpConnection]) -> dict[str, int]:
    """Count connections: kTLS transmit, kTLS receive, and neither."""
    counts = {"ktls_tx": 0, "ktls_rx": 0, "userspace": 0}
    for connection in connections:
        counts["ktls_tx"] += connection.ktls_tx
        counts["ktls_rx"] += connection.ktls_rx
        counts["userspace"] += not (connection.ktls_tx or connection.ktls_rx)
    return counts


def one(connections: Iterable[TcpConnection], remote_port: int) -> dict[str, Any]:
    """Describe the server's socket whose peer is ``remote_port``."""
    for connection in connections:
        if connection.remote_port == remote_port:
            return {"found": True, "ktls_tx": connection.ktls_tx, "ktls_rx": connection.ktls_rx}
    return {"found": False}


class DiagClient:
    """Asks the kernel itself where the kernel tells, else the helper."""

    def __init__(self, path: str, port: int, dump: Dump = _dump) -> None:
        """``path``: the helper's socket; ``port``: the sidecar's."""
        self._path = path
        self._port = port
        self._dump = dump
        self._direct = True

    def summary(self) -> dict[str, int]:
        """Return the counts. Raises :class:`KtlsError` when the kernel's view cannot be had."""
        counts = self._get({"verb": "summary"}).get("sockets")
        if not isinstance(counts, dict):
            raise KtlsError("protocol", f"{self._path} answered without counts; restart ktls-diag.socket")
        return {str(key): int(value) for key, value in counts.items()}

    def ktls_tx(self, remote_port: int) -> bool | None:
        """Return whether the connection from ``remote_port`` transmits by kTLS; None if it is not there."""
        found = self._get({"verb": "one", "remote_port": remote_port})
        return bool(found.get("ktls_tx")) if found.get("found") else None

    def ktls_rx(self, remote_port: int) -> bool | None:
        """Return whether the connection from ``remote_port`` receives by kTLS; None if it is not there."""
        found = self._get({"verb": "one", "remote_port": remote_port})
        return bool(found.get("ktls_rx")) if found.get("found") else None

    def _get(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._direct:
            try:
                return answer(request, self._port, self._dump)
            except KtlsError as error:
                if error.code != "need_net_admin":
                    raise
                self._direct = False  # neither our privileges nor the kernel change while we run
        from ktls_host import jsonsock

        return jsonsock.call(self._path, request, 5.0)


def answer(request: Any, port: int, dump: Dump = _dump) -> dict[str, Any]:
    """Answer one request of the helper. Raises :class:`KtlsError`: bad_request."""
    if request == {"verb": "summary"}:
        return {"sockets": summary(dump(port, 0))}
    if isinstance(request, dict) and set(request) == {"verb", "remote_port"} and request["verb"] == "one":
        remote = request["remote_port"]
        if isinstance(remote, int) and not isinstance(remote, bool) and 1 <= remote <= 65535:
            return one(dump(port, remote), remote)
    raise KtlsError("bad_request", "the helper answers summary, evidence, and one with a remote_port")


class Watch:
    """Evidence, from the first time that it is asked for."""

    def __init__(self, config: EvidenceConfig | None = None, probe_port: int | None = None) -> None:
        """``config`` says how often to look; None is the default. ``probe_port``: where the agent's probe connects."""
        self._config = config
        self._probe_port = probe_port
        self._observer: Any = None

    def answer(self) -> dict[str, Any]:
        """Return the snapshot of now. Raises :class:`KtlsError` when the host cannot be looked at."""
        from .evidence import wire

        if self._observer is None:
            from .evidence.config import EvidenceConfig
            from .evidence.observer import Observer

            self._observer = Observer(self._config or EvidenceConfig(), probe_port=self._probe_port)
        return {"evidence": wire.encode(self._observer.snapshot())}

    def step(self, at_most_s: float) -> float:
        """Look at the host if it is time; return how long to wait for requests."""
        return at_most_s if self._observer is None else min(at_most_s, self._observer.step())


def serve(port: int, listener: socket.socket, idle_exit_s: float = IDLE_EXIT_S, watch: Watch | None = None) -> None:
    """Answer requests on ``listener``, one connection at a time, until none has come for ``idle_exit_s`` seconds."""
    watch = watch or Watch()
    listener.setblocking(False)
    deadline = time.monotonic() + idle_exit_s
    while True:
        if not select.select([listener], [], [], max(0.0, watch.step(deadline - time.monotonic())))[0]:
            if time.monotonic() >= deadline:
                return
            continue
        deadline = time.monotonic() + idle_exit_s
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionError):
            continue
        with connection:
            _converse(connection, port, watch)


def _converse(connection: socket.socket, port: int, watch: Watch) -> None:
    import json

    connection.settimeout(_PEER_TIMEOUT_S)
    try:
        data = b""
        while not data.endswith(b"\n") and len(data) <= _MAX_REQUEST:
            chunk = connection.recv(_MAX_REQUEST)
            if not chunk:
                return
            data += chunk
        try:
            request = json.loads(data)
            found = watch.answer() if request == {"verb": "evidence"} else answer(request, port)
            reply: dict[str, Any] = {"ok": True, **found}
        except KtlsError as error:
            reply = {"ok": False, "error": error.as_dict()}
        except (ValueError, RecursionError):
            reply = {"ok": False, "error": {"code": "bad_request", "message": "the request is not one JSON line"}}
        except OSError as error:
            reply = {"ok": False, "error": {"code": "sock_diag", "message": f"sock_diag failed: {error.strerror}"}}
        connection.sendall(json.dumps(reply).encode() + b"\n")
    except OSError:
        return  # the peer left or was slow: nobody to tell


def main(port: int, evidence: EvidenceConfig | None = None) -> int:
    """Run the helper on the socket that systemd passed (sd_listen_fds(3))."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise KtlsError("bad_request", "the diag helper is started by ktls-diag.socket, not by hand")
    with socket.socket(fileno=_LISTEN_FD) as listener:
        serve(port, listener, watch=Watch(evidence, port))
    return 0
