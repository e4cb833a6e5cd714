# SPDX-License-Identifier: Apache-2.0
"""The samples of many hosts as columns, one row a sample, so that a wave is judged in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Any

import numpy as np

from .model import HostSeries

Array = Any
OFF, ON, MIXED = 0, 1, 2
_ARM = {"off": OFF, "on": ON, "mixed": MIXED}
_FIELDS = attrgetter("at_s", "seconds", "arm", "washout", "block", "cpu_s", "sent", "connections", "errors", "probe_s")


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
    fields = list(zip(*map(_FIELDS, samples), strict=True)) or [()] * 10
    at, seconds, arm, washout, block, cpu, sent, connections, errors, probes = fields
    ends = np.array(at, dtype=float)
    probes_each = np.fromiter(map(len, probes), int, len(samples))
    # Times from the wire may be infinite; such samples are judged by what is made of them later.
    with np.errstate(invalid="ignore"):
        since = ends - np.repeat(np.asarray(ordered_at, dtype=float), counts)
    return Columns(
        names=tuple(one.host for one in series),
        host=np.repeat(np.arange(len(series)), counts),
        at=ends,
        since=since,
        seconds=np.array(seconds, dtype=float),
        arm=np.fromiter(map(_ARM.__getitem__, arm), int, len(samples)),
        washout=np.array(washout, dtype=bool),
        block=np.fromiter((-1 if number is None else number for number in block), int, len(samples)),
        cpu=np.array(cpu, dtype=float),
        sent=np.array(sent, dtype=float),
        connections=np.array(connections, dtype=float),
        errors=np.fromiter(map(_total, errors), float, len(samples)),
        probe_row=np.repeat(np.arange(len(samples)), probes_each),
        probe=np.fromiter(chain.from_iterable(probes), float, int(probes_each.sum())),
    )


def _total(errors: Mapping[str, int] | None) -> float:
    if not errors:
        return 0.0 if errors is not None else math.nan
    return float(sum(errors.values()))
