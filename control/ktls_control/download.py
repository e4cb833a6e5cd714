# SPDX-License-Identifier: Apache-2.0
"""One verified HTTPS download, the way a client outside the host would do it."""

from __future__ import annotations

import hashlib
import http.client
import socket
import ssl
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Download:
    """What came back.

    :param sha256: hex digest of the body; None when the download failed.
    :param seconds: from connect to the last byte.
    """

    ok: bool
    sha256: str | None
    size: int
    seconds: float
    protocol: str | None
    cipher: str | None
    error: str | None


class _NamedConnection(http.client.HTTPSConnection):
    """HTTPS to an address, verified against a name that need not resolve there."""

    def __init__(self, host: str, port: int, name: str, context: ssl.SSLContext, timeout_s: float) -> None:
        super().__init__(host, port, timeout=timeout_s, context=context)
        self._name = name
        self._tls_context = context

    def connect(self) -> None:
        raw = socket.create_connection((self.host, self.port), self.timeout)
        try:
            self.sock = self._tls_context.wrap_socket(raw, server_hostname=self._name)
        except BaseException:
            raw.close()
            raise


def fetch(
    url: str, ca_file: str | None, server_name: str | None = None, timeout_s: float = 30.0, *, card: bool = False
) -> Download:
    """Download ``url`` and hash it.

    :param ca_file: PEM file of the authority to trust; None for the system's.
    :param server_name: name to verify and to ask for (SNI, Host); None for the one in the URL.
    :param card: offer nothing but what a network card can encrypt: TLS 1.2 with AES-GCM.
    :returns: a failed :class:`Download` instead of raising, for any network, TLS or HTTP failure.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    name = server_name or host
    started = time.monotonic()
    protocol = cipher = None
    digest, size = hashlib.sha256(), 0
    try:
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except OSError as error:
            # It names no file.
            raise OSError(f"the authority to trust, {ca_file}, cannot be read: {error.strerror or error}") from error
        if card:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers("ECDHE+AESGCM")
        connection = _NamedConnection(host, port, name, context, timeout_s)
        try:
            connection.request("GET", parts.path or "/", headers={"Host": name, "Connection": "close"})
            tls = connection.sock
            if isinstance(tls, ssl.SSLSocket):
                protocol, cipher = tls.version(), (tls.cipher() or (None,))[0]
            response = connection.getresponse()
            while chunk := response.read(1 << 18):
                digest.update(chunk)
                size += len(chunk)
            if response.status != 200:
                raise OSError(f"HTTP status {response.status}")
            promised = response.headers.get("Content-Length")
            # http.client does not complain of a body that ends early when it is read in pieces.
            if promised is not None and size != int(promised):
                raise OSError(f"the body ended after {size} of {promised} bytes")
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        seconds = time.monotonic() - started
        return Download(False, None, size, seconds, protocol, cipher, f"{type(error).__name__}: {error}")
    return Download(True, digest.hexdigest(), size, time.monotonic() - started, protocol, cipher, None)
