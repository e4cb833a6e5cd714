# SPDX-License-Identifier: Apache-2.0
"""The files that the lab's hosts serve: a pure function of a seed.

The control node can name the SHA-256 of each file without downloading it, so a corrupted or
plaintext-leaking transfer is caught by content, not by length.
"""

from __future__ import annotations

import hashlib
from functools import cache

SEED = b"ktls-fleet lab content v1"
DIRECTORY = "/srv/ktls"
SIZES = {"small.bin": 10 * 1024, "medium.bin": 256 * 1024, "large.bin": 4 * 1024 * 1024}


def file_bytes(name: str) -> bytes:
    """Content of the served file ``name``: SHAKE-256 (FIPS 202) over seed and name; KeyError if unknown."""
    return hashlib.shake_256(SEED + b"\0" + name.encode()).digest(SIZES[name])


@cache
def _sha256(name: str) -> str:
    return hashlib.sha256(file_bytes(name)).hexdigest()


def manifest() -> dict[str, str]:
    """URL path below the server root (``/small.bin``) to the hex SHA-256 of its content."""
    return {f"/{name}": _sha256(name) for name in SIZES}
