# SPDX-License-Identifier: Apache-2.0
"""The self-probe: a client like any other, over loopback, that verifies everything and then asks the kernel."""

from __future__ import annotations

import hashlib
import socket
import ssl
import time
from dataclasses import dataclass, replace
from typing import Callable

from ktls_host.errors import KtlsError
from ktls_host.probe_object import EXPECTED_SHA256, PROBE_SIZE

from .config import ProbeConfig

_HEAD_LIMIT = 16 * 1024


@dataclass(frozen=True)
class ProbeResult:
    """What the probe saw. ``at_s`` is CLOCK_BOOTTIME; ``ktls_*`` are None when the kernel's view could not be had."""

    ok: bool
    at_s: float
    duration_s: float = 0.0
    sha256_ok: bool = False
    ktls_tx: bool | None = None
    protocol: str = ""
    cipher: str = ""
    error: str | None = None
    ktls_rx: bool | None = None

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
        }


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
    result = ProbeResult(False, time.clock_gettime(time.CLOCK_BOOTTIME))
    try:
        result = _fetch(config, ktls_tx, ktls_rx, started + timeout_s, result)
    except ssl.SSLCertVerificationError as error:
        result = replace(result, error=f"the certificate was not accepted: {error.verify_message}")
    except socket.timeout:
        result = replace(result, error=f"no complete answer within {timeout_s:g} s")
    except (OSError, KtlsError, ValueError) as error:
        result = replace(result, error=" ".join(str(error).split()) or type(error).__name__)
    return replace(result, duration_s=time.monotonic() - started)


def _fetch(
    config: ProbeConfig,
    ktls_tx: Callable[[int], bool | None],
    ktls_rx: Callable[[int], bool | None],
    deadline: float,
    result: ProbeResult,
) -> ProbeResult:
    # With a CA file given, create_default_context trusts nothing else, and checks chain and name.
    context = ssl.create_default_context(cafile=config.ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection((config.host, config.port), _left(deadline)) as raw:
        raw.settimeout(_left(deadline))
        with context.wrap_socket(raw, server_hostname=config.server_name) as tls:
            cipher = tls.cipher()
            result = replace(result, protocol=tls.version() or "", cipher=cipher[0] if cipher else "")
            request = f"GET {config.path} HTTP/1.1\r\nHost: {config.server_name}\r\nUser-Agent: ktls-probe\r\n\r\n"
            tls.sendall(request.encode("ascii"))
            digest = _body_digest(tls, deadline)
            result = replace(result, sha256_ok=digest == EXPECTED_SHA256)
            # While the connection is still open: the kernel forgets it afterwards.
            tx, rx, problem = None, None, None
            try:
                tx, rx = ktls_tx(tls.getsockname()[1]), ktls_rx(tls.getsockname()[1])
            except (OSError, KtlsError) as error:
                problem = f"the kernel's view of the connection could not be had: {' '.join(str(error).split())}"
    if not result.sha256_ok:
        return replace(
            result, ktls_tx=tx, ktls_rx=rx, error="the content arrived damaged: its SHA-256 is not the probe object's"
        )
    return replace(result, ok=True, ktls_tx=tx, ktls_rx=rx, error=problem)


def _body_digest(tls: ssl.SSLSocket, deadline: float) -> str:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _receive(tls, deadline)
        if len(data) > _HEAD_LIMIT + 65536:
            raise ValueError("the answer's headers do not end")
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ", 2)
    if len(words) < 2 or words[1] != "200":
        raise ValueError(f"the server answered {lines[0][:80]!r}; is the probe object in its root?")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("content-length") != str(PROBE_SIZE):
        raise ValueError(f"the server announced {headers.get('content-length')} bytes instead of {PROBE_SIZE}")
    hasher = hashlib.sha256()
    left = PROBE_SIZE
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
        raise ValueError("the server closed before the content was complete")
    return chunk


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout
    return left
