# SPDX-License-Identifier: Apache-2.0
"""What a network card did during a drill of phase ``hw``, by key ``hw`` of the agent's status. Pure.

The drill's own download goes over loopback, which no card ever sees. So what is looked at is the traffic of others:
clients, a sentinel, or the control node that downloads while the drill goes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Optional

#: Bytes that a card must have encrypted, by its own count, before a drill calls that proved.
ENOUGH_BYTES = 100_000
_Count = Optional[int]  # evaluated at run time, where Python 3.9 has no X | None


@dataclass(frozen=True)
class Card:
    """Counts since the order; None: not known. ``encrypted`` and ``sent`` (by connections called hw) are in bytes."""

    encrypted: _Count = None
    sent: _Count = None
    installed: _Count = None
    software: _Count = None
    stale: _Count = None

    @property
    def proved(self) -> bool:
        """The card counted enough bytes, in a session that it took since the order."""
        return (self.encrypted or 0) >= ENOUGH_BYTES and (self.installed or 0) > 0

    @property
    def words(self) -> str:
        """What was seen, for people."""
        told = {
            "bytes encrypted by the card": self.encrypted,
            "bytes sent by connections called hw": self.sent,
            "sessions in the card": self.installed,
            "in software": self.software,
            "stale": self.stale,
        }
        return ", ".join(f"{'unknown' if value is None else value} {name}" for name, value in told.items())

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def interfaces(status: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether transmit offload is on, for each interface that can offload."""
    found = _part(status).get("interfaces")
    return {str(one.get("name")): bool(one.get("tx_on")) for one in found} if isinstance(found, list) else {}


def seen(before: Mapping[str, Any], now: Mapping[str, Any]) -> Card:
    """Return what happened between two statuses."""
    first, last = _part(before), _part(now)

    def grown(*path: str) -> int | None:
        then, later = _at(first, path), _at(last, path)
        return None if then is None or later is None or later < then else later - then

    return Card(
        grown("encrypted_bytes"),
        grown("sent", "hw"),
        grown("installed"),
        grown("software"),
        _at(last, ("open", "stale")),
    )


def _part(status: Mapping[str, Any]) -> Mapping[str, Any]:
    found = status.get("hw")
    return found if isinstance(found, Mapping) else {}


def _at(found: Mapping[str, Any], path: tuple[str, ...]) -> int | None:
    value: Any = found
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None
