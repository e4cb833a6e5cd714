# SPDX-License-Identifier: Apache-2.0
"""The samples of many hosts as columns, one row a sample, so that a wave is judged in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np

from .model import HostSeries

Array = Any
OFF, ON, MIXED = 0, 1, 2
_ARM = {"off": OFF, "on": ON, "mixed": MIXED}
_NUMBERS = attrgetter("at_s", "seconds", "cpu_s", "sent", "connections", "requests", "washout", "block")


@dataclass(frozen=True)
class Columns:
    """Rows of all hosts, host after host, each oldest first. Missing numbers are NaN.

    :param host: index into ``names``; ``since``: end of the sample less the time of the order, below 0 the baseline.
    :param errors: all failures of the interval; ``block``: -1 where the sample does not say.
    :param probe_row: row of each self-probe; ``probe``: its seconds.
    """

    names: tuple[str, ...]
    host: Array
    at: Array
    since: Array
    seconds: Array
    arm: Array
    washout: Array
    block: Array
    cpu: Array
    sent: Array
    connections: Array
    errors: Array
    probe_row: Array
    probe: Array

    @property
    def hosts(self) -> int:
        """How many there are, those without a sample too."""
        return len(self.names)


def of(series: Sequence[HostSeries], ordered_at: Sequence[float]) -> Columns:
    """:param ordered_at: time of the order on each host's own clock."""
    samples = list(chain.from_iterable(one.samples for one in series))
    counts = [len(one.samples) for one in series]
    rows = np.array(list(map(_NUMBERS, samples)), dtype=float).reshape(len(samples), 8)
    host = np.repeat(np.arange(len(series)), counts)
    since = rows[:, 0] - np.repeat(np.asarray(ordered_at, dtype=float), counts)
    errors = np.array([_total(sample.errors) for sample in samples], dtype=float)
    probes = [len(sample.probe_s) for sample in samples]
    probe = np.fromiter(chain.from_iterable(sample.probe_s for sample in samples), float, sum(probes))
    block = np.where(np.isnan(rows[:, 7]), -1, rows[:, 7]).astype(int)
    return Columns(
        tuple(one.host for one in series),
        host,
        rows[:, 0],
        since,
        rows[:, 1],
        np.array([_ARM[sample.arm] for sample in samples], dtype=int),
        rows[:, 6] == 1,
        block,
        rows[:, 2],
        rows[:, 3],
        rows[:, 4],
        errors,
        np.repeat(np.arange(len(samples)), probes),
        probe,
    )


def _total(errors: Any) -> float:
    if errors is None:
        return float("nan")
    return float(sum(errors.values())) if errors else 0.0
