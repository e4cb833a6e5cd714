# SPDX-License-Identifier: Apache-2.0
"""What happened, counted where it happened."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from .leave import is_ordered
from .merge import Counts

USERSPACE = "userspace"
KTLS_TX = "ktls_tx"
KTLS_TX_RX = "ktls_tx_rx"
KTLS_RX = "ktls_rx"
PATHS = (USERSPACE, KTLS_TX, KTLS_TX_RX, KTLS_RX)
_TIMED = 16
"""Responses whose duration is remembered, for each mode: whoever compares modes asks every second."""
_PATH_OF = {(False, False): USERSPACE, (True, False): KTLS_TX, (True, True): KTLS_TX_RX, (False, True): KTLS_RX}


@dataclass
class Tally:
    """One row: connections of one (assigned mode, path, protocol, cipher).

    ``assigned`` is the mode that the connection drew, ``path`` what it got: which directions the kernel encrypts.
    ``bytes_total`` is HTTP bytes handed to TLS, ``received_total`` those that came out of it; ``requests_total``
    counts responses that were begun.
    """

    assigned: str
    path: str
    protocol: str
    cipher: str
    connections: int = 0
    connections_total: int = 0
    bytes_total: int = 0
    received_total: int = 0
    requests_total: int = 0

    @property
    def sends_in_kernel(self) -> bool:
        """True when the kernel encrypts what is sent."""
        return self.path in (KTLS_TX, KTLS_TX_RX)

    @property
    def in_kernel(self) -> tuple[bool, bool]:
        """Whether the kernel encrypts what is sent, and decrypts what is received."""
        return self.sends_in_kernel, self.path in (KTLS_RX, KTLS_TX_RX)


@dataclass
class Counters:
    """Everything that one process counts since it started. Times come from ``clock``, in seconds.

    The clock is the system's monotonic one, the same in all processes, so that times of several can be compared.
    """

    clock: Callable[[], float] = time.monotonic
    errors: Counter[str] = field(default_factory=Counter)
    """Faults on our side, in TLS or in the kernel."""
    client_aborts: Counter[str] = field(default_factory=Counter)
    """Connections that the client broke: scans, failed handshakes, resets, timeouts."""
    fallbacks: Counter[str] = field(default_factory=Counter)
    limited: Counter[str] = field(default_factory=Counter)
    """kTLS connections that we ended early, by cause: ``age``, ``bytes`` or ``drained``."""
    requests: Counter[int] = field(default_factory=Counter)
    rejected: int = 0
    errors_by_mode: Counter[str] = field(default_factory=Counter)
    """Errors of connections, by the mode that the connection drew."""
    _times: dict[str, deque[tuple[float, float]]] = field(default_factory=dict)
    _table: dict[tuple[str, str, str, str], Tally] = field(default_factory=dict)
    _ktls_tx_open: int = 0
    _ktls_tx_at: float | None = None
    _ktls_tx_zero_at: float | None = None

    def opened(self, assigned: str, tx: bool, rx: bool, protocol: str, cipher: str) -> Tally:
        """Count a finished handshake; the caller keeps the row and gives it to :meth:`closed`.

        ``tx`` and ``rx``: whether the kernel encrypts what is sent, and decrypts what is received.
        """
        key = (assigned, _PATH_OF[tx, rx], protocol, cipher)
        tally = self._table.get(key)
        if tally is None:
            tally = self._table[key] = Tally(*key)
        tally.connections += 1
        tally.connections_total += 1
        if tx:
            self._ktls_tx_open += 1
            self._ktls_tx_at = self.clock()
        return tally

    def timed(self, assigned: str, seconds: float) -> None:
        """Remember how long a whole response took, of a connection that drew ``assigned``."""
        times = self._times.get(assigned)
        if times is None:
            times = self._times[assigned] = deque(maxlen=_TIMED)
        times.append((self.clock(), seconds))

    def closed(self, tally: Tally) -> None:
        """Count the end of a connection."""
        tally.connections -= 1
        if tally.sends_in_kernel:
            self._ktls_tx_open -= 1
            if self._ktls_tx_open == 0:
                self._ktls_tx_zero_at = self.clock()

    def not_ordered(self, mode: str) -> int:
        """Return the number of open connections whose kTLS is not what ``mode`` orders."""
        rows = self._table.values()
        return sum(row.connections for row in rows if not is_ordered(mode, *row.in_kernel, row.assigned))

    def snapshot(self) -> Counts:
        """Return all of it as plain JSON."""
        return {
            "rows": [
                {
                    "assigned": row.assigned,
                    "path": row.path,
                    "protocol": row.protocol,
                    "cipher": row.cipher,
                    "connections": row.connections,
                    "connections_total": row.connections_total,
                    "bytes_total": row.bytes_total,
                    "received_total": row.received_total,
                    "requests_total": row.requests_total,
                }
                for row in self._table.values()
            ],
            "errors": dict(self.errors),
            "errors_by_mode": dict(self.errors_by_mode),
            "client_aborts": dict(self.client_aborts),
            "fallbacks": dict(self.fallbacks),
            "limited": dict(self.limited),
            "requests": {str(code): count for code, count in self.requests.items()},
            "rejected": self.rejected,
            "times": {
                mode: [[round(at, 3), round(seconds, 6)] for at, seconds in times]
                for mode, times in self._times.items()
            },
            "ktls_tx_at": self._ktls_tx_at,
            "ktls_tx_zero_at": self._ktls_tx_zero_at,
        }
