# SPDX-License-Identifier: Apache-2.0
"""What a run measures: modes, scenarios, rounds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

MODES = ("userspace", "tx", "rx")
SCENARIOS = ("bulk-1m", "bulk-16m", "small", "handshake", "idle")
CIPHER = "TLS_AES_128_GCM_SHA256"
SMALL_FILES, SMALL_SIZE = 64, 10 * 1024
TINY_SIZE = 1024
BULK_SIZES = {"bulk-1m": 1 << 20, "bulk-16m": 16 << 20}
BULK_FILES = {"bulk-1m": 16, "bulk-16m": 2}


@dataclass(frozen=True)
class Settings:
    """All of it. Times are seconds."""

    mode: str = "userspace"
    only: tuple[str, ...] = SCENARIOS
    rounds: int = 8
    round_s: int = 4
    warm_up_s: int = 2
    workers: int = 1
    idle: int = 5000
    bulk_connections: int = 8
    small_connections: int = 16
    handshake_clients: int = 4
    server_user: str | None = None
    """Account that the servers run as; None: the one that measures."""
    revision: str = "unknown"
    """What is measured, for the record."""

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Settings:
        """Return the settings that :meth:`to_json` wrote. Raises ValueError: a mode or scenario that is not known."""
        settings = Settings(**{**data, "only": tuple(data["only"])})
        unknown = set(settings.only) - set(SCENARIOS)
        if unknown or settings.mode not in MODES:
            raise ValueError(f"unknown: {', '.join(sorted(unknown)) or settings.mode}")
        return settings


def split_cpus(cpus: set[int], workers: int) -> tuple[list[int], list[int]]:
    """Return the CPUs of the server and of the load generator.

    They share them only where there is no choice, which is then part of the result.
    """
    ordered = sorted(cpus)
    server = ordered[:workers]
    return server, ordered[workers:] or server
