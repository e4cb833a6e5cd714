# SPDX-License-Identifier: Apache-2.0
"""The self-probe: a client like any other, over loopback, that verifies everything and then asks the kernel."""

from __future__ import annotations

import hashlib
import socket
import ssl
import time
from dataclasses import asdict, dataclass, replace
from typing import Callable

from ktls_host.errors import KtlsError

from .config import ProbeConfig

_HEAD_LIMIT = 16 * 1024
_SETTLE_S = 2.0

CONNECT = "connect"
CERTIFICATE = "certificate"
HANDSHAKE = "handshake"
TIMEOUT = "timeout"
BUSY = "busy"
REFUSED = "refused"
ANSWER = "answer"
RECORD = "record"
CONTENT = "content"
KERNEL_VIEW = "kernel_view"
FAILURES = (CONNECT, CERTIFICATE, HANDSHAKE, TIMEOUT, BUSY, REFUSED, ANSWER, RECORD, CONTENT, KERNEL_VIEW)
"""Where a probe failed. ``connect``: not even TCP. ``timeout``: after the handshake, no complete answer in time.
``busy``: the server said 503. ``refused``: it gave another status, or another object. ``answer``: no whole answer came.
``record``: a TLS record did not verify. ``content``: all of it came, and its SHA-256 is another.
``kernel_view``: all is well, but the kernel was not seen."""


@dataclass(frozen=True)
class Timings:
    """How long each part took, in seconds; None for a part that was not reached.

    ``transfer_s`` is from the request to the last byte, so it holds ``first_byte_s``, which ends with the first one.
    """

    connect_s: float | None = None
    handshake_s: float | None = None
    first_byte_s: float | None = None
    transfer_s: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """Return plain JSON."""
        return {name: None if value is None else round(value, 6) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class ProbeResult:
    """What the probe saw. ``at_s`` is CLOCK_BOOTTIME; ``ktls_*`` are None when the kernel's view could not be had.

    ``failure`` is one of :data:`FAILURES`, or None. ``sha256_ok`` is None where there was nothing to download.
    """

    ok: bool
    at_s: float
    duration_s: float = 0.0
    sha256_ok: bool | None = False
    ktls_tx: bool | None = None
    protocol: str = ""
    cipher: str = ""
    error: str | None = None
    ktls_rx: bool | None = None
    failure: str | None = None
    timings: Timings = Timings()

    def as_dict(self, now_s: float) -> dict[str, object]:
        """Return the form used in the status object."""
        return {
            "ok": self.ok,
            "at_age_s": round(max(0.0, now_s - self.at_s), 3),
            "sha256_ok": self.sha256_ok,
            "ktls_tx": self.ktls_tx,
            "ktls_rx": self.ktls_rx,
            "protocol": self.protocol,
            "cipher": self.cipher,
            "duration_s": round(self.duration_s, 6),
            "error": self.error,
            "failure": self.failure,
            "timings": self.timings.as_dict(),
        }


class _AnswerError(ValueError):
    """The server answered, but not as it should. ``failure``: as in :class:`ProbeResult`."""

    def __init__(self, message: str, failure: str = ANSWER) -> None:
        super().__init__(message)
        self.failure = failure


def run(
    config: ProbeConfig,
    ktls_tx: Callable[[int], bool | None],
    timeout_s: float = 10.0,
    ktls_rx: Callable[[int], bool | None] = lambda port: None,
) -> ProbeResult:
    """Fetch the probe object and compare its SHA-256. Blocks for at most about ``timeout_s`` seconds; never raises.

    ``ktls_tx(remote_port)`` tells whether the server's socket of this very connection transmits by kTLS, and
    ``ktls_rx`` whether it receives so. ``ok`` means verified and intact; whether kTLS was used is reported, and judged
    by the caller.
    """
    started = time.monotonic()
    probing = _Run(config, (ktls_tx, ktls_rx), started + timeout_s)
    result = ProbeResult(False, time.clock_gettime(time.CLOCK_BOOTTIME))
    try:
        probing.fetch()
        error, failure = probing.problem, KERNEL_VIEW if probing.problem else None
    except ssl.SSLCertVerificationError as raised:
        error, failure = f"the certificate was not accepted: {raised.verify_message}", CERTIFICATE
    except socket.timeout:
        error, failure = f"no complete answer within {timeout_s:g} s", probing.stage
    except _AnswerError as raised:
        error, failure = str(raised), raised.failure
    except ssl.SSLError as raised:
        broken = probing.stage == TIMEOUT and not isinstance(raised, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
        error = " ".join(str(raised).split())
        failure = RECORD if broken else ANSWER if probing.stage == TIMEOUT else probing.stage
    except (OSError, KtlsError, ValueError) as raised:
        error = " ".join(str(raised).split()) or type(raised).__name__
        failure = ANSWER if probing.stage == TIMEOUT else probing.stage
    return replace(
        result,
        ok=failure in (None, KERNEL_VIEW),
        duration_s=time.monotonic() - started,
        sha256_ok=probing.sha256_ok,
        ktls_tx=probing.kernel[0],
        ktls_rx=probing.kernel[1],
        protocol=probing.protocol,
        cipher=probing.cipher,
        error=error,
        failure=failure,
        timings=Timings(*probing.times),
    )


class _Run:
    """One probe. What it has found out stands even when a later step raises."""

    def __init__(
        self,
        config: ProbeConfig,
        ask: tuple[Callable[[int], bool | None], Callable[[int], bool | None]],
        deadline: float,
    ) -> None:
        self._config = config
        self._ask = ask
        self._deadline = deadline
        self.stage = CONNECT
        """What a timeout now would mean."""
        self.times: list[float] = []
        self.protocol = self.cipher = ""
        self.sha256_ok: bool | None = False
        self.kernel: tuple[bool | None, bool | None] = (None, None)
        """Whether the kernel transmits and receives for the server."""
        self.problem: str | None = None
        """Why the kernel's view is missing."""

    def fetch(self) -> None:
        """Raises what went wrong; :attr:`stage` says where."""
        config = self._config
        # With a CA file given, create_default_context trusts nothing else, and checks chain and name.
        self.stage = CERTIFICATE
        context = ssl.create_default_context(cafile=config.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.stage, begun = CONNECT, time.monotonic()
        with socket.create_connection((config.host, config.port), _left(self._deadline)) as raw:
            self.times.append(time.monotonic() - begun)
            raw.settimeout(_left(self._deadline))
            self.stage, begun = HANDSHAKE, time.monotonic()
            with context.wrap_socket(raw, server_hostname=config.server_name) as tls:
                self.times.append(time.monotonic() - begun)
                cipher = tls.cipher()
                self.protocol, self.cipher = tls.version() or "", cipher[0] if cipher else ""
                self.stage = TIMEOUT
                if self._config.path is None:
                    self._look_only(tls)
                else:
                    self._transfer(tls)

    def _look_only(self, tls: ssl.SSLSocket) -> None:
        """Nothing is asked for. The server may still be at the client's last message, which begins receiving."""
        self.sha256_ok = None
        started = time.monotonic()
        while True:
            self._ask_kernel(tls)
            # One that has begun is worth waiting for; most have not, and never will.
            wait_s = _SETTLE_S if self.kernel[0] else _SETTLE_S / 4
            if self.problem or self.kernel == (True, True) or time.monotonic() >= min(self._deadline, started + wait_s):
                return
            time.sleep(_SETTLE_S / 20)

    def _transfer(self, tls: ssl.SSLSocket) -> None:
        name = self._config.server_name
        request = f"GET {self._config.path} HTTP/1.1\r\nHost: {name}\r\nUser-Agent: ktls-probe\r\n\r\n"
        begun = time.monotonic()
        tls.sendall(request.encode("ascii"))
        first = _receive(tls, self._deadline)
        self.times.append(time.monotonic() - begun)
        digest = _body_digest(tls, self._deadline, first, self._config.size)
        self.times.append(time.monotonic() - begun)
        self.sha256_ok = digest == self._config.sha256
        self._ask_kernel(tls)
        if not self.sha256_ok:
            raise _AnswerError("the content arrived damaged: its SHA-256 is not the probe object's", CONTENT)

    def _ask_kernel(self, tls: ssl.SSLSocket) -> None:
        """While the connection is still open: the kernel forgets it afterwards."""
        try:
            port = tls.getsockname()[1]
            self.kernel = self._ask[0](port), self._ask[1](port)
        except (OSError, KtlsError) as error:
            self.problem = f"the kernel's view of the connection could not be had: {' '.join(str(error).split())}"


def _body_digest(tls: ssl.SSLSocket, deadline: float, data: bytes, whole: int) -> str:
    while b"\r\n\r\n" not in data:
        data += _receive(tls, deadline)
        if len(data) > _HEAD_LIMIT + 65536:
            raise _AnswerError("the answer's headers do not end")
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if len(words) < 2 or words[1] != "200":
        told = len(words) > 1 and words[0].startswith("HTTP/1.") and words[1].isdigit()
        failure = BUSY if told and words[1] == "503" else REFUSED if told else ANSWER
        raise _AnswerError(f"the server answered {lines[0][:80]!r}; is the probe object in its root?", failure)
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("content-length") != str(whole):
        size = headers.get("content-length")
        raise _AnswerError(f"the server announced {size} bytes instead of {whole}", REFUSED)
    hasher = hashlib.sha256()
    left = whole
    while True:
        hasher.update(body[:left])
        left -= min(left, len(body))
        if not left:
            return hasher.hexdigest()
        body = _receive(tls, deadline)


def _receive(tls: ssl.SSLSocket, deadline: float) -> bytes:
    tls.settimeout(_left(deadline))
    chunk = tls.recv(65536)
    if not chunk:
        raise _AnswerError("the server closed before the content was complete")
    return chunk


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout
    return left
