# SPDX-License-Identifier: Apache-2.0
"""What a service answers in userspace TLS: a hash that later self-tests compare with.

Nobody can put a file of ours into any program, so a URL of its own is downloaded once, certificate and name verified,
while the kernel has no part in it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import socket
import ssl
import time
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

from .. import sock_diag
from ..errors import KtlsError

MAX_SIZE = 64 * 1024 * 1024
_TIMEOUT_S = 15.0
_CHUNK = 65536
_POLL_S = 0.1


@dataclass(frozen=True)
class Place:
    """Where a service answers: ``host`` is what is connected to, ``server_name`` what the certificate must be for."""

    host: str
    port: int
    server_name: str
    ca: str
    path: str | None = None


@dataclass(frozen=True)
class Baseline:
    """What came. ``url`` is what was asked for."""

    url: str
    sha256: str
    size: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def place(url: str, host: str, ca: str) -> Place:
    """Return where ``url`` is, connected to at ``host``. Raises KtlsError ``bad_url``. Pure."""
    try:
        parts = urlsplit(url)
        port = parts.port or 443
    except ValueError as error:
        raise _bad_url(url, str(error)) from error
    if parts.scheme != "https" or not parts.hostname or parts.username or parts.fragment:
        raise _bad_url(url, "it is not https://NAME[:PORT]/PATH")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or not path.isprintable() or " " in path:
        raise _bad_url(url, "its path is not printable ASCII")
    return Place(host, port, parts.hostname, ca, path)


def wait(where: Place, wait_s: float = _TIMEOUT_S) -> None:
    """Wait until something listens there again. Raises :class:`KtlsError` ``not_listening``."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((where.host, where.port), 1.0):
            return
        time.sleep(_POLL_S)
    message = f"nothing listens on {where.host} port {where.port}; see the journal of the service"
    raise KtlsError("not_listening", message)


def fetch(where: Place, url: str) -> tuple[Baseline, bool | None]:
    """Download, and return what came and whether the server sent it by kernel TLS; ``None``: the kernel does not say.

    Needs CAP_NET_ADMIN before Linux 6.15. Raises :class:`KtlsError`: ``probe_failed``.
    """
    try:
        context = ssl.create_default_context(cafile=where.ca)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        raw = socket.create_connection((where.host, where.port), _TIMEOUT_S)
        with raw, context.wrap_socket(raw, server_hostname=where.server_name) as tls:
            connection = http.client.HTTPConnection(where.server_name, where.port)
            connection.sock = tls
            connection.request("GET", where.path or "/", headers={"User-Agent": "ktls-probe"})
            with connection.getresponse() as response:
                digest, size = _digest(response)
                in_kernel = _in_kernel(where.port, tls.getsockname()[1])
    except ssl.SSLCertVerificationError as error:
        raise _failed(url, f"the certificate was not accepted: {error.verify_message}") from error
    except (OSError, http.client.HTTPException) as error:
        raise _failed(url, " ".join(str(error).split()) or type(error).__name__) from error
    return Baseline(url, digest, size), in_kernel


def _digest(response: http.client.HTTPResponse) -> tuple[str, int]:
    if response.status != 200:
        raise http.client.HTTPException(f"it answered {response.status}")
    announced = response.getheader("Content-Length")
    if announced is None or not announced.isdigit() or not 0 < int(announced) <= MAX_SIZE:
        raise http.client.HTTPException(f"it announces no size from 1 to {MAX_SIZE} bytes (Content-Length {announced})")
    hasher, size = hashlib.sha256(), 0
    while chunk := response.read(_CHUNK):
        hasher.update(chunk)
        size += len(chunk)
    return hasher.hexdigest(), size


def _in_kernel(port: int, ours: int) -> bool | None:
    try:
        found = [one for one in sock_diag.tcp_connections({port}, remote_port=ours) if one.remote_port == ours]
    except (KtlsError, OSError):
        return None
    return found[0].ktls_tx if found else None


def _bad_url(url: str, why: str) -> KtlsError:
    return KtlsError("bad_url", f"ktls_service_probe_url {url!r} cannot be used: {why}")


def _failed(url: str, why: str) -> KtlsError:
    message = (
        f"{url} could not be downloaded to know its content ({why}); mend that, or name another URL of the service"
    )
    return KtlsError("probe_failed", message)
