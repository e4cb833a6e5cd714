# SPDX-License-Identifier: Apache-2.0
"""Keys that may sign, a web server that does whatever a test wants over real TLS, and a host to be switched off."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.flags import OffFlags
from ktls_agent.pull.config import Endpoint, PullConfig, endpoint
from ktls_agent.pull.fetch import Fetcher
from ktls_agent.pull.raiser import Raiser
from ktls_agent.pull.service import Puller
from ktls_agent.pull.verify import Verifier
from ktls_agent.pull.watch import Watch
from ktls_control import flag as signer
from tests.authority import Authority, KeyPair

FLEET = "prod"
TIMEOUT_S = 0.6


@dataclasses.dataclass(frozen=True)
class Keys:
    """SSH keys, and the file of those that may sign for the fleet."""

    directory: Path

    def __getitem__(self, name: str) -> Path:
        path = self.directory / name
        if not path.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True)
        return path

    def line(self, name: str, principals: str = FLEET, options: str = 'namespaces="ktls-flag"') -> str:
        public = self[name].with_suffix(".pub").read_text()
        return f"{principals} {options} {public}"

    def allow(self, *lines: str) -> Path:
        path = self.directory / "allowed_signers"
        path.unlink(missing_ok=True)
        path.write_text("".join(lines))
        path.chmod(0o644)
        return path

    def sign(
        self, state: str = "off", reason: str = "a test", serial: int = 5, name: str = "ops", **more: Any
    ) -> bytes:
        return signer.sign(self[name], more.pop("fleet", FLEET), state, reason, serial=serial, **more)


@pytest.fixture(scope="package")
def made_keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def keys(made_keys: Keys) -> Keys:
    """Keys, of which ``ops`` may sign."""
    made_keys.allow(made_keys.line("ops"))
    return made_keys


@pytest.fixture(scope="package")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="package")
def pair(authority: Authority) -> KeyPair:
    return authority.issue("server", ["127.0.0.1", "flags.test"])


Behaviour = Callable[[ssl.SSLSocket, bytes], bool]
"""Answers one request; returns whether the connection stays open."""


def response(body: bytes, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


class Server:
    """A TLS server on the loopback address, a thread for each connection."""

    def __init__(self, pair: KeyPair) -> None:
        self.behave: Behaviour = lambda sock, request: False
        self.requests: list[bytes] = []
        self.connections = 0
        self.errors: list[str] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(pair.certificate, pair.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._stopped = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def serves(self, body: bytes, status: str = "200 OK", headers: str = "") -> None:
        """Answer every request in the same, proper way."""
        answer = response(body, status, headers)
        self.always(answer)

    def always(self, answer: bytes) -> None:
        """Answer every request with these bytes, and keep the connection."""

        def behave(sock: ssl.SSLSocket, request: bytes) -> bool:
            sock.sendall(answer)
            return True

        self.behave = behave

    def says(self, raw: bytes) -> None:
        """Answer every request with these bytes and the end of the connection."""

        def behave(sock: ssl.SSLSocket, request: bytes) -> bool:
            sock.sendall(raw)
            return False

        self.behave = behave

    def stop(self) -> None:
        self._stopped.set()
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        self._open.append(plain)
        with contextlib.suppress(OSError), plain:
            try:
                sock = self._context.wrap_socket(plain, server_side=True)
            except ssl.SSLError as error:
                self.errors.append(str(error))
                return
            self._open.append(sock)
            with sock:
                while request := self._request(sock):
                    self.requests.append(request)
                    if not self.behave(sock, request):
                        return

    def _request(self, sock: ssl.SSLSocket) -> bytes:
        data = b""
        while not data.endswith(b"\r\n\r\n"):
            block = sock.recv(4096)
            if not block:
                return b""
            data += block
        return data


@pytest.fixture
def server(pair: KeyPair) -> Iterator[Server]:
    made = Server(pair)
    yield made
    made.stop()


@pytest.fixture
def servers(pair: KeyPair) -> Iterator[Callable[[], Server]]:
    made: list[Server] = []

    def make() -> Server:
        made.append(Server(pair))
        return made[-1]

    yield make
    for one in made:
        one.stop()


class Host:
    """What the fetcher acts on, and the fetcher; polls are made by hand, one by one."""

    def __init__(self, tmp_path: Path, keys: Keys, ca: Path, *urls: str) -> None:
        self.run, self.state = tmp_path / "run", tmp_path / "lib"
        for directory in (self.run, self.state):
            directory.mkdir(parents=True)
        self.config = PullConfig(
            FLEET,
            tuple(endpoint(url, "test") for url in urls),
            ca=str(ca),
            interval_s=0.1,
            timeout_s=TIMEOUT_S,
            allowed_signers=str(keys.directory / "allowed_signers"),
            run_flag=str(self.run / "off"),
            durable_flag=str(self.state / "off"),
            agent_socket=str(tmp_path / "agent.sock"),
            status=str(tmp_path / "status.json"),
            owed=str(tmp_path / "owed.json"),
        )
        self.flags = OffFlags(self.config.run_flag, self.config.durable_flag)
        self.asked: list[dict[str, Any]] = []
        self.agent_error: Exception | None = None
        self.restart()

    def restart(self, boot_id: str = "boot-1") -> None:
        """Begin a new process."""
        self.verifier = Verifier(FLEET, self.config.allowed_signers)
        self.raiser = Raiser(self.flags, self.config.agent_socket, self.config.owed, boot_id, self._agent)
        self.fetchers: list[Fetcher] = []
        self.puller = Puller(self.config, self.raiser, self._watch, "host-1", boot_id)
        self.watches = {one.url: self._watch(one) for one in self.config.endpoints}

    def poll(self, times: int = 1) -> dict[str, Any]:
        """Poll every endpoint and return the state of the last one."""
        for _ in range(times):
            for one in self.config.endpoints:
                self.puller.poll(one, self.watches[one.url])
        found: dict[str, Any] = self.puller.status()["endpoints"][-1]
        return found

    def problems(self) -> str:
        return "\n".join(self.puller.status()["problems"])

    def nothing_happened(self) -> bool:
        """Whether the host is as before: no flag, nobody asked, no other file in the directories."""
        return not any(self.flags.present()) and not self.asked and not [*self.run.iterdir(), *self.state.iterdir()]

    def _watch(self, one: Endpoint) -> Watch:
        self.fetchers.append(Fetcher(one, self.config.ca, self.config.timeout_s))
        return Watch(self.fetchers[-1], self.verifier, "ktls-pull/test")

    def _agent(self, path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        if self.agent_error is not None:
            raise self.agent_error
        self.asked.append(request)
        self.flags.write_durable(request["reason"])
        return {"ok": True}


@pytest.fixture
def host(tmp_path: Path, keys: Keys, authority: Authority, server: Server) -> Iterator[Host]:
    made = Host(tmp_path, keys, authority.path, f"https://127.0.0.1:{server.port}/ktls/flag")
    yield made
    for fetcher in made.fetchers:
        fetcher.close()
