# SPDX-License-Identifier: Apache-2.0
"""A sidecar as a program of its own on this machine. Only its configuration, sockets and exit status are used."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ktls_host.jsonsock import JsonSockError, call
from tests.authority import KeyPair

from .clients import Endpoint

REPOSITORY = Path(__file__).parents[2]
START_S = 30.0
STOP_S = 60.0
FLIP_S = 0.3


def free_port() -> int:
    """Return a TCP port that is free on both loopback addresses now."""
    while True:
        with socket.socket() as four, socket.socket(socket.AF_INET6) as six:
            four.bind(("127.0.0.1", 0))
            port = int(four.getsockname()[1])
            with contextlib.suppress(OSError):
                six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                six.bind(("::1", port))
                return port


class Native:
    """``python -m ktls_sidecar --config …`` below ``directory``, listening on 127.0.0.1 and ::1."""

    def __init__(self, directory: Path, root: Path, pair: KeyPair, ca: Path, **settings: Any) -> None:
        """Write the configuration. ``settings`` are added to it or replace what is there."""
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self.pair = pair
        self.ca = ca
        self.off_flag = directory / "off"
        self._socket = str(directory / "control.sock")
        self._config = directory / "sidecar.json"
        self._process: subprocess.Popen[bytes] | None = None
        config = {
            "listen": [{"host": host, "port": self.port} for host in ("127.0.0.1", "::1")],
            "root": str(root),
            "certificate": str(pair.certificate),
            "key": str(pair.key),
            "control_socket": self._socket,
            "http_socket": str(directory / "http.sock"),
            "control_group": None,
            "off_flags": [str(self.off_flag)],
            **settings,
        }
        self._config.write_text(json.dumps(config))

    @property
    def endpoint(self) -> Endpoint:
        """Where clients go, and what they trust."""
        return Endpoint(self.port, self.ca)

    @property
    def pid(self) -> int:
        """The main process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> Native:
        """Start and wait until the control socket and the port answer."""
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY / "agent")}
        argv = [sys.executable, "-m", "ktls_sidecar", "--config", str(self._config)]
        with (self.directory / "access.log").open("wb") as out, (self.directory / "messages.log").open("wb") as err:
            self._process = subprocess.Popen(argv, stdout=out, stderr=err, env=environment, cwd=self.directory)
        end = time.monotonic() + START_S
        while not self._answers():
            assert self._process.poll() is None, f"it ended: {self.messages()}"
            assert time.monotonic() < end, f"it did not start: {self.messages()}"
            time.sleep(0.05)
        return self

    def _answers(self) -> bool:
        try:
            self.status()
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except (JsonSockError, OSError):
            return False
        return True

    def stop(self) -> int:
        """End it as systemd would, and return its exit status."""
        process = self._process
        assert process is not None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_S)
        finally:
            process.kill()

    def signal(self, number: int) -> None:
        """Send a signal to the main process."""
        os.kill(self.pid, number)

    def wait(self, seconds: float) -> int:
        """Wait for its end and return its exit status."""
        assert self._process is not None
        return self._process.wait(seconds)

    def messages(self) -> str:
        """What it wrote to standard error."""
        return (self.directory / "messages.log").read_text(errors="replace")

    def access_log(self) -> list[dict[str, Any]]:
        """The whole lines of the access log."""
        text = (self.directory / "access.log").read_text()
        return [json.loads(line) for line in text.split("\n")[:-1] if line]

    def call(self, **request: Any) -> dict[str, Any]:
        """One exchange on the control socket. Raises JsonSockError."""
        return call(self._socket, request, 20)

    def status(self) -> dict[str, Any]:
        """The status object."""
        return self.call(verb="status")

    def mode(self, mode: str) -> dict[str, Any]:
        """Order a mode."""
        return self.call(verb="mode", mode=mode)


@contextlib.contextmanager
def running(directory: Path, root: Path, pair: KeyPair, ca: Path, **settings: Any) -> Iterator[Native]:
    """A sidecar with settings of its own; a clean end is part of each test."""
    native = Native(directory, root, pair, ca, **settings).start()
    try:
        yield native
    finally:
        code = native.stop()
    assert code == 0, native.messages()


@contextlib.contextmanager
def no_errors(native: Native) -> Iterator[None]:
    """Whatever the clients do meanwhile, the sidecar counts no error of its own."""
    before = native.status()["errors"]
    yield
    after = native.status()["errors"]
    assert after == before, native.messages()[-2000:]


class Switcher:
    """Changes the mode without a break until :meth:`stop`. ``order`` is called with each mode."""

    def __init__(self, order: Callable[[str], object], modes: Sequence[str], every_s: float = FLIP_S) -> None:
        """Start."""
        self._order = order
        self._modes = modes
        self._every_s = every_s
        self._end = threading.Event()
        self.switched = 0
        self.refused: dict[str, str] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._end.wait(self._every_s):
            mode = self._modes[number % len(self._modes)]
            number += 1
            try:
                self._order(mode)
                self.switched += 1
            except (JsonSockError, AssertionError) as error:
                self.refused[mode] = str(error)

    def stop(self) -> None:
        """End, and wait for it."""
        self._end.set()
        self._thread.join(30)


def eventually(condition: Callable[[], bool], seconds: float = 10.0, what: str = "the condition") -> None:
    """Wait until ``condition`` holds; fail if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what} never held"
        time.sleep(0.02)


def tls_context(ca: Path, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
    """A verifying context in which an end without close_notify shows."""
    context = ssl.create_default_context(cafile=str(ca))
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    if version is not None:
        context.minimum_version = context.maximum_version = version
    return context
