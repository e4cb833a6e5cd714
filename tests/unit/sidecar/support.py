# SPDX-License-Identifier: Apache-2.0
"""A sidecar in a thread, and a client that reads one response at a time."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ktls_host.jsonsock import call
from ktls_sidecar import config as sidecar_config
from ktls_sidecar.control import serve_control
from ktls_sidecar.merge import Counts
from ktls_sidecar.openssl import load
from ktls_sidecar.poller import new_loop
from ktls_sidecar.report import Report
from ktls_sidecar.server import Server
from ktls_sidecar.web.files import OpenFile, RefusedError, Target, open_below


def open_target(root: str, target: Target) -> OpenFile:
    """Open what ``target`` names below ``root``, or its index.html."""
    base = os.fsencode(root)
    found = None if target.directory else open_below(base, target.segments)
    found = found or open_below(base, (*target.segments, b"index.html"))
    if found is None:
        raise RefusedError(404, "not a regular file")
    return found


@dataclass(frozen=True)
class Certificate:
    """Paths of a CA certificate and of a key pair that it signed for ``localhost``."""

    ca: Path
    certificate: Path
    key: Path


@dataclass
class Response:
    """What the client read; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One verified TLS connection."""

    def __init__(
        self,
        port: int,
        ca: Path,
        version: ssl.TLSVersion | None = None,
        alpn: list[str] | None = None,
        ciphers: str | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        context = ssl.create_default_context(cafile=str(ca))
        # An end without close_notify must show.
        context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        if version is not None:
            context.minimum_version = context.maximum_version = version
        if alpn is not None:
            context.set_alpn_protocols(alpn)
        if ciphers is not None:
            context.set_ciphers(ciphers)
        raw = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self.sock = context.wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
        self.stream = self.sock.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()
        self.sock.close()

    def send(self, raw: bytes) -> None:
        self.sock.sendall(raw)

    def get(self, path: str, method: str = "GET", **headers: str) -> Response:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
        return self.response(head=method == "HEAD")

    def response(self, head: bool = False) -> Response:
        status_line = self.stream.readline()
        if not status_line:
            raise EOFError("the server closed the connection without a response")
        headers: dict[str, str] = {}
        for line in iter(self.stream.readline, b"\r\n"):
            assert line.endswith(b"\r\n"), line
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        status = int(status_line.split()[1])
        length = 0 if head or status == 304 else int(headers["content-length"])
        return Response(status, headers, self.stream.read(length))

    def closed(self) -> bool:
        """True when the server ends the stream cleanly (close_notify) with nothing more to read."""
        return self.stream.read(1) == b""


def report_of(counts: Counts, **changes: Any) -> Report:
    """A report with ``counts``, and everything else as on a quiet day."""
    report: Report = {
        "now": 100.0,
        "version": "1",
        "openssl": "OpenSSL 3",
        "pid": 1,
        "port": 8443,
        "uptime_s": 1.0,
        "mode": "tx",
        "share": 1.0,
        "tls12": False,
        "effective_mode": "tx",
        "off_flag": False,
        "drain_until": None,
        "health": "ok",
        "workers": [{"pid": 2, "connections": 0, "started": 1.0, "serving": True}],
        "counts": counts,
    }
    return cast(Report, {**report, **changes})


class Sidecar:
    """A running server with its control socket."""

    def __init__(self, directory: Path, certificate: Certificate, **overrides: Any) -> None:
        self.root = directory / "root"
        self.root.mkdir(exist_ok=True)
        self.off_flag = directory / "off"
        self.socket = str(directory / "control.sock")
        self.certificate = certificate
        settings = {
            "listen": [{"host": "127.0.0.1", "port": 0}],
            "root": str(self.root),
            "certificate": str(certificate.certificate),
            "key": str(certificate.key),
            "control_socket": self.socket,
            "control_group": None,
            "off_flags": [str(self.off_flag)],
            **overrides,
        }
        self.config = sidecar_config.parse(settings)
        self.log = io.StringIO()
        self.complaints: list[str] = []
        self._loop, poller = new_loop()
        self.server = Server(self.config, load(), log=self.log, complain=self.complaints.append, poller=poller)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()
        self._stop: asyncio.Event | None = None
        self._drain_s = 0.0

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        await self.server.start()
        control = await serve_control(self.server, self.config.control_socket, None)
        self._ready.set()
        await self._stop.wait()
        await self.server.drain(self._drain_s)
        await control.close()

    def start(self) -> Sidecar:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def stop(self, drain_s: float = 0.0, wait: bool = True) -> None:
        self._drain_s = drain_s
        assert self._stop is not None
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        if wait:
            self.join()

    def join(self) -> None:
        self._thread.join(20)
        assert not self._thread.is_alive()

    @property
    def port(self) -> int:
        return self.server.port

    def client(self, **options: Any) -> Client:
        return Client(self.port, self.certificate.ca, **options)

    def call(self, **request: Any) -> dict[str, Any]:
        return call(self.socket, request)

    def status(self) -> dict[str, Any]:
        return self.call(verb="status")


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until ``condition`` holds; fail if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition never held"
        time.sleep(0.01)


@contextlib.contextmanager
def running(directory: Path, certificate: Certificate, **overrides: Any) -> Iterator[Sidecar]:
    """A sidecar with settings of its own."""
    sidecar = Sidecar(directory, certificate, **overrides).start()
    try:
        yield sidecar
    finally:
        sidecar.stop()
