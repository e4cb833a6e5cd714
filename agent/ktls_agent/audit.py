# SPDX-License-Identifier: Apache-2.0
"""Where every change of state leaves a record."""

from __future__ import annotations

from typing import Any, Protocol


class Audit(Protocol):
    """An append-only trail."""

    def record(self, event: str, **detail: Any) -> None:
        """Append one event, with ``detail`` that JSON can carry. Never raises and never waits for long.

        ``event`` is a short name: ``order``, ``pending``, ``confirm``, ``revert``, ``off``, ``clear``, ``guard_trip``.
        """


class NoAudit:
    """Keeps nothing."""

    def record(self, event: str, **detail: Any) -> None:
        """Forget it."""
