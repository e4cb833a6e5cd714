# SPDX-License-Identifier: Apache-2.0
"""What happened, counted where it happened."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

KTLS_TX = "ktls_tx"
USERSPACE = "userspace"


@dataclass
class Tally:
    """One row: connections of one (path, protocol, cipher). ``bytes_total`` is HTTP bytes handed to TLS."""

    path: str
    protocol: str
    cipher: str
    connections: int = 0
    connections_total: int = 0
    bytes_total: int = 0
    received_total: int = 0


@dataclass
class Counters:
    """Everything the sidecar counts since it started. Times come from ``clock``, in seconds."""

    clock: Callable[[], float] = time.monotonic
    errors: Counter[str] = field(default_factory=Counter)
    """Faults on our side, in TLS or in the kernel."""
    client_aborts: Counter[str] = field(default_factory=Counter)
    """Connections that the client broke: scans, failed handshakes, resets, timeouts."""
    fallbacks: Counter[str] = field(default_factory=Counter)
    requests: Counter[int] = field(default_factory=Counter)
    limited: Counter[str] = field(default_factory=Counter)
    rejected: int = 0
    _table: dict[tuple[str, str, str], Tally] = field(default_factory=dict)
    _ktls_tx_at: float | None = None
    _ktls_tx_zero_at: float | None = None

    def opened(self, assigned: str, ktls_tx: bool, ktls_rx: bool, protocol: str, cipher: str) -> Tally:
        """Count a finished handshake; the caller keeps the row and gives it to :meth:`closed`."""
        key = (KTLS_TX if ktls_tx else USERSPACE, protocol, cipher)
        tally = self._table.get(key)
        if tally is None:
            tally = self._table[key] = Tally(*key)
        tally.connections += 1
        tally.connections_total += 1
        if ktls_tx:
            self._ktls_tx_at = self.clock()
            self._ktls_tx_zero_at = None
        return tally

    def closed(self, tally: Tally) -> None:
        """Count the end of a connection."""
        tally.connections -= 1
        if tally.path == KTLS_TX and self._sum("connections")[KTLS_TX] == 0:
            self._ktls_tx_zero_at = self.clock()

    def rows(self) -> list[Tally]:
        """Return the table, sorted."""
        return [self._table[key] for key in sorted(self._table)]

    def status(self) -> dict[str, Any]:
        """Return the counting part of the status object."""
        now = self.clock()
        return {
            "connections": self._sum("connections"),
            "connections_total": self._sum("connections_total"),
            "bytes": self._sum("bytes_total"),
            "errors": dict(self.errors),
            "client_aborts": dict(self.client_aborts),
            "fallbacks": dict(self.fallbacks),
            "last_ktls_tx_established_age_s": _age(now, self._ktls_tx_at),
            "ktls_tx_zero_age_s": _age(now, self._ktls_tx_zero_at),
            "by": [
                {
                    "path": row.path,
                    "protocol": row.protocol,
                    "cipher": row.cipher,
                    "connections": row.connections,
                    "connections_total": row.connections_total,
                    "bytes_total": row.bytes_total,
                }
                for row in self.rows()
            ],
        }

    def _sum(self, name: str) -> dict[str, int]:
        totals = {KTLS_TX: 0, USERSPACE: 0}
        for row in self._table.values():
            totals[row.path] += getattr(row, name)
        return totals


def _age(now: float, then: float | None) -> float | None:
    return None if then is None else round(now - then, 3)
