# SPDX-License-Identifier: Apache-2.0
"""A bounded memory of what was used recently."""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Keeps at least the last ``size`` keys that were used and at most twice as many.

    Two generations: when the young one is full it becomes the old one, and what the old one held is forgotten unless
    it was used meanwhile. A hit costs one look-up, less than keeping an exact order.
    """

    def __init__(self, size: int) -> None:
        """Start empty. ``size``: 1 or more."""
        self._size = size
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def get(self, key: K) -> V | None:
        """Return what is kept for ``key``, or None."""
        found = self._young.get(key)
        if found is None:
            found = self._old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        """Keep ``value``."""
        if len(self._young) >= self._size and key not in self._young:
            self._old, self._young = self._young, {}
        self._young[key] = value

    def __len__(self) -> int:
        """How many are kept; a key may count twice."""
        return len(self._young) + len(self._old)
