# SPDX-License-Identifier: Apache-2.0
"""The smallest harm that a wave's gate can tell from noise, said before the wave is started."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..plan.model import Gates, Soak
from . import blocks, columns, looks, metrics
from .columns import MIXED, OFF, ON, Columns
from .model import HostSeries

#: Chance with which harm of that size stops the wave at its main look.
POWER = 0.8
_LEAST_PAIRS = 4
_ROWS = ("host", "at", "since", "seconds", "arm", "washout", "block", "cpu", "sent", "connections", "errors")


@dataclass(frozen=True)
class NoiseLevel:
    """What a baseline says of noise. None: the baseline cannot say.

    :param pair: standard deviation, on the logarithmic scale, of the difference of two neighbouring blocks of a host,
        by metric; ``change``: of a host's change over two spans of a soak's length.
    :param connections_s: accepted by a host in a second.
    """

    pair: Mapping[str, float | None]
    change: Mapping[str, float | None]
    connections_s: float | None = None


def noise(gates: Gates, soak: Soak, series: Sequence[HostSeries]) -> NoiseLevel:
    """Noise of the hosts' baselines, cut into blocks and spans like a soak of the plan."""
    table = columns.of(series, [end_of(one) for one in series])
    pairs = blocks.find(_as_switchback(table, gates), gates.block_s, gates.washout_s)
    pair: dict[str, float | None] = {}
    change: dict[str, float | None] = {}
    for name in looks.GATING:
        harm = metrics.harm_of(name, pairs.seconds, pairs.cpu, pairs.sent, pairs.latency)
        values = harm[:, 1] - harm[:, 0]
        values = values[np.isfinite(values)]
        pair[name] = float(np.sqrt(np.square(values).mean())) if len(values) >= _LEAST_PAIRS else None
        changes = _changes(name, table, soak.min_s)
        change[name] = float(changes.std(ddof=1)) if len(changes) >= _LEAST_PAIRS else None
    known = (table.since <= 0) & np.isfinite(table.connections)
    seconds = float(table.seconds[known].sum())
    return NoiseLevel(pair, change, float(table.connections[known].sum()) / seconds if seconds else None)


def detectable(
    gates: Gates,
    soak: Soak,
    baseline: Sequence[HostSeries] | NoiseLevel,
    hosts: int,
    others: int = 0,
) -> Mapping[str, float | None]:
    """Smallest harm, as a share, that the gate of a wave stops with 80 % power at the end of ``soak.min_s``.

    :param baseline: series of the wave's hosts before any order, or what :func:`noise` made of them.
    :param hosts: in the wave; ``others``: in later waves, for a difference in differences.
    :returns: by ``cpu``, ``latency``, ``throughput``; and ``errors``, the share of connections that fail. None: this
        gate can tell nothing with so few hosts, blocks, or so short a baseline.
    """
    level = baseline if isinstance(baseline, NoiseLevel) else noise(gates, soak, baseline)
    found: dict[str, float | None] = {}
    for name in looks.GATING:
        found[name] = _smallest(name, gates, soak, level, hosts, others)
    found["errors"] = _failures(gates, soak, level, hosts)
    return found


def _smallest(metric: str, gates: Gates, soak: Soak, level: NoiseLevel, hosts: int, others: int) -> float | None:
    from scipy.stats import t

    halved = gates.method == "switchback" and hosts > 1
    alpha = looks.schedule(gates, soak, hosts).main.level(looks.alpha_fail(gates.alpha, halved))
    if gates.method == "switchback":
        spread, n = level.pair.get(metric), pairs_of(gates, soak, hosts)
        if spread is None or 2.0**-n > alpha:
            return None
        # The tail of so few flips is coarse: measured, the test needs that much more than Student's.
        error = spread / math.sqrt(n) * (1 + 1 / n)
    elif gates.method == "difference":
        spread, n = level.change.get(metric), hosts + others
        if spread is None or others == 0 or 1 / math.comb(n, hosts) > alpha:
            return None
        error = spread * math.sqrt(1 / hosts + 1 / others)
    else:
        return None
    reach, chance = (float(t.isf(tail, n - 1)) for tail in (alpha, 1 - POWER))
    # It has to be told from nothing, and the estimate has to be above the margin.
    return math.expm1(max((reach + chance) * error, math.log1p(metrics.margin(gates, metric)) + chance * error))


def pairs_of(gates: Gates, soak: Soak, hosts: int) -> int:
    """Pairs of blocks that a wave has at its main look."""
    main = looks.schedule(gates, soak, hosts).main_s
    return hosts * int(main / (2 * gates.block_s) + 1e-9)


def _failures(gates: Gates, soak: Soak, level: NoiseLevel, hosts: int) -> float | None:
    """Share of connections that fail, none of them without kTLS, for which the E-value gets to its limit."""
    from scipy.optimize import brentq
    from scipy.stats import binom

    if level.connections_s is None or level.connections_s <= 0:
        return None
    if gates.method != "switchback":
        return None
    n, need = pairs_of(gates, soak, hosts), _hits_needed(gates.alpha)
    if n < need:
        return None
    chance = float(brentq(lambda q: binom.sf(need - 1, n, q) - POWER, 1e-6, 1 - 1e-9))
    return min(-math.log1p(-chance) / (level.connections_s * max(gates.block_s - gates.washout_s, 1e-9)), 1.0)


def _hits_needed(alpha: float) -> int:
    """Pairs in a row with failures on kTLS alone that make an E-value an alarm."""
    from .errors import log_e

    tries = np.arange(1.0, 200.0)
    return int(np.argmax(log_e(tries, tries, 0.5) >= math.log(looks.e_limit(alpha)))) + 1


def end_of(series: HostSeries) -> float:
    """Where the baseline ends: at the order, or now."""
    if series.ordered_at_s is not None:
        return series.ordered_at_s
    return series.samples[-1].at_s if series.samples else 0.0


def _as_switchback(table: Columns, gates: Gates) -> Columns:
    """The baseline as if it had been one, so that its pairs show how blocks differ when nothing does."""
    rows = np.flatnonzero((table.since <= 0) & (table.arm != MIXED))
    host = table.host[rows]
    begin = table.since[rows] - table.seconds[rows]
    oldest = np.zeros(table.hosts)
    np.minimum.at(oldest, host, begin)
    middle = begin - oldest[host] + table.seconds[rows] / 2
    block = (middle // gates.block_s).astype(int)

    return replace(
        select(table, rows),
        since=middle,
        arm=np.where(block % 2 == 1, ON, OFF),
        washout=middle % gates.block_s < gates.washout_s,
        block=block,
    )


def select(table: Columns, rows: Any) -> Columns:
    """Some rows of a table, in order, with their self-probes."""
    place = np.full(len(table.host), -1)
    place[rows] = np.arange(len(rows))
    probes = place[table.probe_row] if len(table.probe_row) else np.zeros(0, dtype=int)
    kept = {name: getattr(table, name)[rows] for name in _ROWS}
    return replace(table, **kept, probe_row=probes[probes >= 0], probe=table.probe[probes >= 0])


def _changes(metric: str, table: Columns, span_s: float) -> Any:
    """Changes of hosts from one span of a soak's length to the next, each less the mean of all hosts at that time."""
    length = float(-table.since.min(initial=0.0))
    span = min(span_s, length / 2)
    if span <= 0:
        return np.zeros(0)
    found = []
    for number in range(1, int(length / span + 1e-9)):
        change = metrics.change(metric, replace(table, since=table.since + number * span), span, since_s=-span)
        change = change[np.isfinite(change)]
        if len(change) > 1:
            found.append((change - change.mean()) * math.sqrt(len(change) / (len(change) - 1)))
    return np.concatenate(found) if found else np.zeros(0)
