# SPDX-License-Identifier: Apache-2.0
"""Load that the agents of a fleet put on a flag endpoint by polling it. Pure, vectorised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: As in ``ktls_agent.pull.pace``, which hosts follow; a test compares them.
JITTER = 0.25
BACKOFF_MAX_S = 16.0
#: CPU of nginx for one poll over a kept connection, and bytes of one poll and its answer, headers and records
#: included: measured by ``bench.pull`` (see docs/pull.md), and counted from its requests.
SERVER_S_PER_POLL = 0.00013
BYTES_PER_POLL = 700


@dataclass(frozen=True)
class Load:
    """Requests per second at one endpoint, in each second.

    :param steady: agents that all started in the same second, from then on.
    :param returned: the endpoint came back at second 0 after an outage that made every agent back off.
    """

    hosts: int
    interval_s: float
    steady: NDArray[np.int64]
    returned: NDArray[np.int64]

    @property
    def mean(self) -> float:
        """Requests per second at rest."""
        return float(self.steady[5:].mean())

    @property
    def p99(self) -> float:
        """99th percentile of the seconds at rest."""
        return float(np.percentile(self.steady[5:], 99))

    @property
    def peak(self) -> int:
        """Busiest second of all."""
        return int(max(self.steady.max(), self.returned.max()))

    @property
    def cores(self) -> float:
        """CPUs that a web server needs for the busiest second."""
        return self.peak * SERVER_S_PER_POLL

    @property
    def bytes_per_s(self) -> float:
        """Network at rest, both directions."""
        return self.mean * BYTES_PER_POLL


def load(hosts: int, interval_s: float, rng: np.random.Generator, *, seconds: int = 60, outage_s: float = 60.0) -> Load:
    """Let ``hosts`` agents poll one endpoint for ``seconds``, from a common start and after an outage."""
    steady = _count(rng.uniform(0, interval_s, hosts), interval_s, rng, seconds)
    at, failures = rng.uniform(0, interval_s, hosts) - outage_s, np.zeros(hosts, dtype=np.int64)
    while (waiting := np.flatnonzero(at < 0)).size:
        failures[waiting] += 1
        at[waiting] += _next(interval_s, failures[waiting], rng.random(waiting.size))
    return Load(hosts, interval_s, steady, _count(at, interval_s, rng, seconds))


def _next(interval_s: float, failures: NDArray[np.int64], chance: NDArray[np.float64]) -> NDArray[np.float64]:
    doubled = interval_s * 2.0 ** np.clip(failures - 1, 0, 10)
    return np.asarray(np.minimum(doubled, max(interval_s, BACKOFF_MAX_S)) * (1.0 + JITTER * (2.0 * chance - 1.0)))


def _count(at: NDArray[np.float64], interval_s: float, rng: np.random.Generator, seconds: int) -> NDArray[np.int64]:
    counts = np.zeros(seconds, dtype=np.int64)
    at = at.copy()
    while True:
        at = at[at < seconds]
        if not at.size:
            return counts
        counts += np.bincount(at.astype(np.int64), minlength=seconds)
        # A poll that was answered resets the failures.
        at += _next(interval_s, np.zeros(at.size, dtype=np.int64), rng.random(at.size))
