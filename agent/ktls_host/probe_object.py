# SPDX-License-Identifier: Apache-2.0
"""The file that every host serves so that anybody can check its bytes.

Length and status alone do not find corrupted payload; a hash of known content does. The bytes are made, not
stored: both ends compute them. They do not compress, and every 32-byte block differs, so a lost, repeated or
moved block changes the hash.
"""

from __future__ import annotations

import hashlib

PROBE_NAME = "ktls-probe.bin"
PROBE_SIZE = 262144
"""Bytes: sixteen full TLS records (RFC 8446 section 5.1: at most 2**14 bytes of plaintext each)."""

_BLOCK = hashlib.sha256().digest_size
EXPECTED_SHA256 = "0ab43797e762839d11faa31e21a4cd9a8e2137d5312c59191203bc22ea35569e"


def probe_bytes() -> bytes:
    """Return the ``PROBE_SIZE`` bytes of the probe file, the same on every machine."""
    return b"".join(
        hashlib.sha256(b"ktls-fleet probe 1:" + index.to_bytes(4, "big")).digest()
        for index in range(PROBE_SIZE // _BLOCK)
    )
