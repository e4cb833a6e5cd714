# SPDX-License-Identifier: Apache-2.0
"""Releases with a known kTLS fault, as data. Versions are upstream's: a distribution may have mended its own build."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .reasons import Reason

Version = tuple[int, ...]
_OPENSSL = "https://github.com/openssl/openssl/issues"


@dataclass(frozen=True)
class KnownBad:
    """``branches`` are pairs (first bad, first good), in order; good of ``()``, only in the last one: none yet.

    ``phases`` are those that it forbids; with none it is only told.
    """

    code: str
    software: str
    branches: tuple[tuple[Version, Version], ...]
    message: str
    cure: str
    link: str
    phases: tuple[str, ...] = ()

    def hits(self, version: Version) -> bool:
        """Return whether ``version`` has the fault."""
        return any(first <= version and (not good or version < good) for first, good in self.branches)


KNOWN_BAD = (
    KnownBad(
        "openssl_rx_record_too_long",
        "openssl",
        (((3, 2, 0), (3, 2, 1)),),
        "ends connections with 'data length too long' when the kernel decrypts",
        "update to OpenSSL 3.2.1 or later",
        f"{_OPENSSL}/23169",
        ("rx", "hw"),
    ),
    KnownBad(
        "openssl_ulp_on_every_socket",
        "openssl",
        (
            ((3, 0, 0), (3, 0, 19)),
            ((3, 1, 0), (3, 2, 0)),
            ((3, 2, 0), (3, 3, 0)),
            ((3, 3, 0), (3, 3, 6)),
            ((3, 4, 0), (3, 4, 4)),
            ((3, 5, 0), (3, 5, 5)),
            ((3, 6, 0), (3, 6, 1)),
        ),
        "attaches the TLS ULP to every socket, also with kTLS off: use count and ss show more than there is",
        "count connections with a version and cipher only, as ktls-fleet does, or update OpenSSL",
        "https://github.com/openssl/openssl/pull/27908",
    ),
    KnownBad(
        "openssl_moving_write_buffer",
        "openssl",
        (((3, 0, 0), (3, 5, 7)), ((3, 6, 0), (4, 0, 1))),
        "may send stale bytes when a program repeats a write from another buffer over kTLS (Python's ssl module does)",
        "keep such programs in userspace, or update OpenSSL; the sidecar repeats from the same buffer",
        "https://github.com/openssl/openssl/pull/31146",
    ),
    KnownBad(
        "gnutls_key_update_ends_session",
        "gnutls",
        (((3, 7, 3), (3, 8, 10)),),
        "ends a kTLS session when the peer sends new keys",
        "update to GnuTLS 3.8.10 or later on kernel 6.14 or later",
        "https://gitlab.com/gnutls/gnutls/-/blob/master/NEWS",
    ),
    KnownBad(
        "gnutls_partial_write_repeated",
        "gnutls",
        (((3, 7, 3), (3, 8, 1)),),
        "forgets what a write had sent over kTLS before the socket was full, so the program sends it again",
        "update to GnuTLS 3.8.1 or later, or keep programs with non-blocking sockets in userspace",
        "https://gitlab.com/gnutls/gnutls/-/issues/1470",
    ),
    KnownBad(
        "gnutls_chacha20_tls12_iv",
        "gnutls",
        (((3, 8, 0), (3, 8, 13)),),
        "hands the kernel a wrong initialisation vector for CHACHA20-POLY1305 in TLS 1.2",
        "take that cipher out of the TLS 1.2 priorities, or update to GnuTLS 3.8.13 or later",
        "https://gitlab.com/gnutls/gnutls/-/blob/master/NEWS",
    ),
)


def version_of(text: str | None) -> Version:
    """Return the first three numbers of a version text, () when it has none."""
    found = re.search(r"(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?", text or "", re.ASCII)
    return tuple(int(number or 0) for number in found.groups()) if found else ()


def hits(software: str, text: str | None) -> Iterator[tuple[KnownBad, Reason]]:
    """Return the known faults of the release that ``text`` names, each with its reason."""
    version = version_of(text)
    for known in KNOWN_BAD:
        if version and known.software == software and known.hits(version):
            yield known, Reason(known.code, f"{text} {known.message} ({known.link})", known.cure)
