# SPDX-License-Identifier: Apache-2.0
"""How long a kTLS connection may live where the kernel cannot change its keys."""

from __future__ import annotations

import random

AGE, BYTES, DRAINED = "age", "bytes", "drained"
"""Why a kTLS connection was ended: it was old, it had sent much, or kTLS was left and its time to finish was over."""


class Lifetime:
    """Ends a connection before its client is likely to ask for new keys: docs/compatibility.md says who does."""

    __slots__ = ("_bytes", "_until")

    def __init__(self, now: float, max_age_s: float, max_bytes: int) -> None:
        """Begin at ``now``. Ages are spread by a tenth, so that what began together does not end together."""
        self._until = now + max_age_s * random.uniform(0.9, 1.0)
        self._bytes = max_bytes

    def over(self, now: float, sent: int) -> str | None:
        """Return why it is time to end, or None. ``sent``: bytes sent so far."""
        if sent > self._bytes:
            return BYTES
        return AGE if now > self._until else None
