# SPDX-License-Identifier: Apache-2.0
"""Independent clients as programs. Each verifies the certificate; none reads a configuration of this machine."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_S = 60


@dataclass(frozen=True)
class Endpoint:
    """A sidecar on this machine's loopback, and the CA to verify it with."""

    port: int
    ca: Path
    name: str = "localhost"

    def url(self, path: str) -> str:
        """Return the URL of ``path``, which begins with a slash."""
        return f"https://{self.name}:{self.port}{path}"


@dataclass
class Done:
    """A program that ended."""

    code: int
    out: bytes
    err: str

    def __str__(self) -> str:
        """For messages of failed assertions."""
        return f"exit {self.code}: {self.err[-2000:]}"


def environment(home: Path | None = None) -> dict[str, str]:
    """This process' environment without proxies and with another ``home``."""
    found = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**found, "HOME": str(home or "/nonexistent"), "LC_ALL": "C.UTF-8", "OPENSSL_CONF": "/dev/null"}


def run(argv: list[str], given: bytes = b"", timeout_s: float = TIMEOUT_S, cwd: Path | None = None) -> Done:
    """Run ``argv`` to its end."""
    done = subprocess.run(
        argv, input=given, capture_output=True, timeout=timeout_s, check=False, env=environment(), cwd=cwd
    )
    return Done(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


# --- curl ------------------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """The last response that curl got. Header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def curl_argv(endpoint: Endpoint, *options: str) -> list[str]:
    """A curl that verifies against the endpoint's CA only."""
    return ["curl", "-q", "-sS", "--max-time", str(TIMEOUT_S), "--cacert", str(endpoint.ca), *options]


def curl(endpoint: Endpoint, path: str, *options: str) -> Answer:
    """Fetch ``path``; curl must succeed."""
    done = run([*curl_argv(endpoint, "-D", "/dev/stderr", *options), endpoint.url(path)])
    assert done.code == 0, done
    return parse_answer(done)


def parse_answer(done: Done) -> Answer:
    """Take the last header block from standard error (``-D /dev/stderr``)."""
    blocks = [block for block in done.err.replace("\r\n", "\n").split("\n\n") if block.startswith("HTTP/")]
    assert blocks, done
    lines = blocks[-1].split("\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Answer(int(lines[0].split()[1]), headers, done.out)


# --- programs that stay --------------------------------------------------------------------------------------------


class Interactive:
    """A program with pipes whose output is read as it comes: ``openssl s_client``, ``gnutls-cli``."""

    def __init__(self, argv: list[str]) -> None:
        """Start it."""
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment()
        )
        self._chunks: queue.Queue[bytes] = queue.Queue()
        self.output = bytearray()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        while chunk := os.read(self._process.stdout.fileno(), 65536):
            self._chunks.put(chunk)
        self._chunks.put(b"")

    def send(self, data: bytes) -> None:
        """Write to its standard input; nothing happens when it has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(data)
            self._process.stdin.flush()

    def wait_for(self, text: bytes, count: int = 1, seconds: float = 30.0) -> bool:
        """Wait until the output holds ``text`` ``count`` times; False when it ended before."""
        end = time.monotonic() + seconds
        found = self.output.count(text)
        while found < count:
            try:
                chunk = self._chunks.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {text[:100]!r} ({count} times) in …{self.output[-300:]!r}") from None
            if not chunk:
                self._chunks.put(b"")
                return False
            # Only what is new can hold one more.
            start = max(0, len(self.output) - len(text) + 1)
            self.output += chunk
            found += self.output.count(text, start)
        return True

    def ended(self, seconds: float = 30.0) -> bytearray:
        """Wait for its end and return all output."""
        end = time.monotonic() + seconds
        while chunk := self._chunks.get(timeout=max(0.01, end - time.monotonic())):
            self.output += chunk
        self._process.wait(max(0.01, end - time.monotonic()))
        return self.output

    def close(self) -> None:
        """End its input, then the program."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)


def s_client_argv(endpoint: Endpoint, *options: str) -> list[str]:
    """An ``openssl s_client`` that ends when the certificate is not the right one."""
    verify = ["-CAfile", str(endpoint.ca), "-verify_return_error", "-verify_hostname", endpoint.name]
    where = ["-connect", f"127.0.0.1:{endpoint.port}", "-servername", endpoint.name]
    return ["openssl", "s_client", *where, *verify, *options]


def request(path: str, *fields: str, method: str = "GET", host: str = "localhost") -> bytes:
    """Return a request without a body."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *fields, "", ""]).encode("latin-1")


def wget_argv(endpoint: Endpoint, *options: str) -> list[str]:
    """A wget that trusts the endpoint's CA only, tries once and keeps no state."""
    trust = [f"--ca-certificate={endpoint.ca}", "--ca-directory=/nonexistent"]
    return ["wget", "--no-config", "--no-hsts", "--tries=1", f"--timeout={TIMEOUT_S}", *trust, *options]


def gnutls_argv(endpoint: Endpoint, *options: str, log: str = "/dev/stderr") -> list[str]:
    """A gnutls-cli that verifies; what it says itself goes to ``log``, and standard output is the server's bytes."""
    where = ["--port", str(endpoint.port), f"--x509cafile={endpoint.ca}", f"--logfile={log}"]
    return ["gnutls-cli", *where, *options, endpoint.name]
