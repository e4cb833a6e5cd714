# SPDX-License-Identifier: Apache-2.0
"""A switchback's blocks, found in the samples of many hosts and summed into pairs.

A pair is two neighbouring blocks of one host, one with kTLS and one without, in an order that chance gave. Within a
block nothing is weighed by samples: a block is one observation, however often it was sampled.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .columns import MIXED, ON, Array, Columns
from .groups import means, upper_tenths

#: Share of a block's time (less the washout) that samples have to cover.
_MIN_COVER = 0.6


@dataclass(frozen=True)
class Pairs:
    """Sums of the two blocks of each pair, in order of time; column 0 without kTLS, column 1 with.

    :param host: index of the host; ``number``: of the pair within its host; ``ends``: seconds of the soak.
    :param order: 1 when the block with kTLS came first.
    :param latency: geometric mean of the block's self-probes, NaN without; ``slow``: how many of them are slow.
    """

    host: Array
    number: Array
    ends: Array
    order: Array
    seconds: Array
    cpu: Array
    sent: Array
    connections: Array
    errors: Array
    latency: Array
    probes: Array
    slow: Array

    def __len__(self) -> int:
        return len(self.host)

    def before(self, until_s: float) -> Array:
        """Rows of the pairs that were over ``until_s`` seconds into the soak."""
        return self.ends <= until_s + 1e-6


def find(columns: Columns, block_s: float, washout_s: float) -> Pairs:
    """The complete pairs of the soak."""
    rows = np.flatnonzero((columns.since > 0) & (columns.arm != MIXED))
    number = _numbers(columns, rows, block_s)
    keep = ~columns.washout[rows]
    rows, number = rows[keep], number[keep]
    host = columns.host[rows]
    width = int(number.max()) // 2 + 1 if len(number) else 1
    cell = (host * width + number // 2) * 2 + columns.arm[rows]
    cells = columns.hosts * width * 2

    def total(values: Array) -> Array:
        return np.bincount(cell, weights=values, minlength=cells).reshape(-1, 2)

    seconds = total(columns.seconds[rows])
    # Both blocks of a pair, of one arm each: a block number seen under both arms is no block.
    place = np.full(cells, -1)
    place[cell] = number % 2
    torn = np.zeros(cells, dtype=bool)
    torn[cell[place[cell] != number % 2]] = True
    order, clash = place.reshape(-1, 2), torn.reshape(-1, 2)
    enough = seconds >= _MIN_COVER * max(block_s - washout_s, 1e-9)
    good = enough.all(axis=1) & ~clash.any(axis=1) & (order[:, 0] != order[:, 1])
    last = np.full(cells, -np.inf)
    np.maximum.at(last, cell, columns.since[rows])
    ends = last.reshape(-1, 2).max(axis=1)
    latency, probes, slow = _probes(columns, rows, cell, cells)
    found = np.flatnonzero(good)
    found = found[np.argsort(ends[found], kind="stable")]
    return Pairs(
        found // width,
        found % width,
        ends[found],
        (order[found, ON] == 0).astype(int),
        seconds[found],
        total(columns.cpu[rows])[found],
        total(columns.sent[rows])[found],
        total(columns.connections[rows])[found],
        total(columns.errors[rows])[found],
        latency[found],
        probes[found],
        slow[found],
    )


def _numbers(columns: Columns, rows: Array, block_s: float) -> Array:
    """Number of the block of each of ``rows``, from 0 for each host."""
    if len(rows) == 0:
        return np.zeros(0, dtype=int)
    said = columns.block[rows]
    if (said >= 0).all():
        return said
    host, arm, washout = columns.host[rows], columns.arm[rows], columns.washout[rows]
    begins = columns.since[rows] - columns.seconds[rows]
    fresh = np.ones(len(rows), dtype=bool)
    fresh[1:] = (host[1:] != host[:-1]) | (arm[1:] != arm[:-1]) | (washout[1:] & ~washout[:-1])
    run = np.cumsum(fresh) - 1
    start = begins[fresh][run]
    first = np.concatenate([[True], host[1:] != host[:-1]])
    origin = begins[first][np.cumsum(first) - 1]
    # Neighbouring blocks of one arm without a washout between them look like one: they are told apart by time.
    middle = columns.since[rows] - columns.seconds[rows] / 2
    within = np.floor((middle - start) / block_s + 1e-9)
    return (np.rint((start - origin) / block_s) + within).astype(int)


def _probes(columns: Columns, rows: Array, cell: Array, cells: int) -> tuple[Array, Array, Array]:
    """Geometric mean of the self-probes of each cell, how many there are, and how many of them are slow.

    Slow is above the 90th percentile of all probes of the host in these rows: the arms have no part in that.
    """
    cell_of_row = np.full(len(columns.host), -1)
    cell_of_row[rows] = cell
    where = cell_of_row[columns.probe_row] if len(columns.probe_row) else np.zeros(0, dtype=int)
    used = (where >= 0) & (columns.probe > 0)
    where, values, host = where[used], columns.probe[used], columns.host[columns.probe_row[used]]
    mean, count = means(where, np.log(values), cells)
    slow = values > upper_tenths(host, values, columns.hosts)[host]
    late = np.bincount(where, weights=slow, minlength=cells)
    return np.exp(mean).reshape(-1, 2), count.reshape(-1, 2), late.reshape(-1, 2)
