# SPDX-License-Identifier: Apache-2.0
"""How a file that is wholly ours is recognised, and whether somebody has edited it, when no record tells. Pure."""

from __future__ import annotations

import hashlib

HEADER = "# Written by ktls-fleet (ktls_crypto_policy); state: absent takes it away"


def signed(body: str) -> str:
    """Return ``body`` below our header and a checksum of it: comments for OpenSSL, GnuTLS and systemd alike."""
    return f"{HEADER}\n{_checksum(body)}\n{body}"


def is_signed(text: str) -> bool:
    """True for a text that :func:`signed` made and nobody has changed; empty lines in front do not count."""
    header, _, rest = text.lstrip("\n").partition("\n")
    checksum, _, body = rest.partition("\n")
    return header == HEADER and checksum == _checksum(body)


def _checksum(body: str) -> str:
    digest = hashlib.sha256(body.encode("utf-8", "surrogateescape")).hexdigest()
    return f"# unedited as long as what follows has this SHA-256: {digest}"
