# SPDX-License-Identifier: Apache-2.0
"""Read files that may be missing: each kernel and distribution has its own set."""

from __future__ import annotations

import os


def under(root: str, path: str) -> str:
    """Return the absolute ``path`` below ``root``."""
    return os.path.join(root, path.lstrip("/"))


def read(root: str, path: str) -> str | None:
    """Return the text of a file; ``None`` when it is missing or cannot be read."""
    try:
        with open(under(root, path), encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return None


def present(root: str, path: str) -> bool:
    """Return whether there is a file at ``path``."""
    return os.path.isfile(under(root, path))
