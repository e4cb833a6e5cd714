# SPDX-License-Identifier: Apache-2.0
"""When the kernel took its last TLS session for sending, and when the last one ended. Pure.

By /proc/net/tls_stat, which counts for the whole network namespace: another program with kernel TLS beside nginx is in
it. A module that was loaded anew counts from zero.
"""

from __future__ import annotations

from collections.abc import Mapping

LIVELY_S = 60.0


class Sessions:
    """Fed with the counters now and again; ages are as exact as that is often."""

    def __init__(self) -> None:
        """Nothing was seen yet."""
        self._opened: int | None = None
        self._open: int | None = None
        self._last_s: float | None = None
        self._zero_s: float | None = None

    def look(self, now_s: float, counters: Mapping[str, int] | None) -> None:
        """Take the counters; None where the kernel has none."""
        found = counters or {}
        opened = found.get("TlsTxSw", 0) + found.get("TlsTxDevice", 0)
        left = found.get("TlsCurrTxSw", 0) + found.get("TlsCurrTxDevice", 0)
        more = self._opened is not None and opened != self._opened and opened > 0
        if more:
            self._last_s = now_s
        if left > 0:
            self._zero_s = None
        elif more or self._open:  # also for one that came and went between two looks
            self._zero_s = now_s
        self._opened, self._open = opened, left

    def lively(self, now_s: float) -> bool:
        """Return whether ages may soon be asked for that have to be exact: there are sessions, or were just now."""
        return bool(self._open) or (self._last_s is not None and now_s - self._last_s < LIVELY_S)

    def ages(self, now_s: float) -> dict[str, float | None]:
        """Return how long ago the last session began, and since when there is none; None: not since the start.

        ``ktls_tx_open``: how many there are.
        """
        return {
            "ktls_tx_open": self._open,
            "last_ktls_tx_established_age_s": _age(now_s, self._last_s),
            "ktls_tx_zero_age_s": _age(now_s, self._zero_s) if not self._open else None,
        }


def _age(now_s: float, then_s: float | None) -> float | None:
    return None if then_s is None else round(max(0.0, now_s - then_s), 3)
