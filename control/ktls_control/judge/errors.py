# SPDX-License-Identifier: Apache-2.0
"""Failures of a wave: the test that may be watched all the time, and the flood that needs no test.

An E-value is what a bettor against "no harm" would have made of one coin. By Ville's inequality it ever reaches
1/alpha with a probability of at most alpha, so it may be read at any time and as often as one likes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from . import metrics
from .blocks import Pairs
from .columns import OFF, Array, Columns
from .model import ArmTotals

_MINUTE_S = 60.0
#: A host's bad minute counts once in so many minutes: failures come in bursts, and a burst is one thing. So many at
#: least, and as many as bursts were long before the order, but not more than the most.
_BURST_LEAST, _BURST_MOST = 3, 15
#: How much hosts differ in their rate of bad minutes when nothing is known of them (standard deviation of its log).
_SPREAD = 1.0
#: A flood: so many failures in a minute, this share of its connections, and so often the worst seen without kTLS.
FLOOD, _FLOOD_SHARE, _FLOOD_TIMES = 20, 0.05, 10


#: Least chance of a bad minute that a host's own past is trusted to show; least minutes of it.
_OWN_LEAST, _OWN_MINUTES = 0.03, 10
#: More failures with kTLS than without, and chance would do it more rarely than this: no alarm, and no pass either.
_SUSPICIOUS = 0.1


@dataclass(frozen=True)
class ErrorTest:
    """What the failures say.

    :param path: E-value after each thing seen, oldest first; ``at_s``: when, in seconds of the soak.
    :param compared: what was compared with what; empty: there was nothing to compare with.
    :param with_ktls: failures with it, of ``tries`` connections; ``without``: in what it was compared with.
    :param p: chance of so many of the failures falling on kTLS (failures taken as independent: for promotion alone).
    """

    path: tuple[float, ...]
    at_s: tuple[float, ...]
    compared: tuple[str, ...]
    with_ktls: int
    without: int
    tries: int
    p: float | None

    @property
    def value(self) -> float:
        """The latest; 1 while there was nothing to bet on."""
        return self.path[-1] if self.path else 1.0

    @property
    def suspicious(self) -> bool:
        """Too much to promote on, too little to stop for."""
        return self.p is not None and self.p < _SUSPICIOUS


@dataclass(frozen=True)
class _Bets:
    """One way to compare: ``hits`` of 0 or 1 at ``at_s``, whose chance is at most ``null`` without harm."""

    compared: str
    at_s: Array
    hits: Array
    null: float
    with_ktls: float
    without: float
    share: float
    weight: float = 1.0

    @property
    def log_path(self) -> Array:
        return log_e(np.cumsum(self.hits), np.arange(1, len(self.hits) + 1), self.null)


def log_e(hits: Array, tries: Array, null: float) -> Array:
    """log E of ``hits`` in ``tries`` against a chance of at most ``null``: uniform mixture of the chances above it."""
    from scipy.special import betaincc, betaln

    misses = tries - hits
    with np.errstate(divide="ignore"):
        tail = np.log(betaincc(hits + 1, misses + 1, null))
    return betaln(hits + 1, misses + 1) + tail - hits * np.log(null) - (misses + 1) * np.log1p(-null)


def test(
    pairs: Pairs | None, arms: Mapping[str, Mapping[str, ArmTotals]], ours: Columns, theirs: Columns | None
) -> ErrorTest:
    """The E-value of a wave's failures.

    :param pairs: of a switchback; ``arms``: totals of connections by what they drew; ``theirs``: hosts of later waves.
    """
    bets = []
    if pairs is not None and len(pairs):
        bets += _by_pairs(pairs, ours.hosts)
    drawn = _by_connections(arms)
    if drawn is not None:
        bets.append(drawn)
    if theirs is not None:
        controls = _by_controls(ours, theirs)
        if controls is not None:
            bets.append(controls)
    if not bets:
        own = _by_own_past(ours)
        if own is not None:
            bets.append(own)
    # Of those alone whose failures somebody counted.
    treated = (ours.since > 0) & (ours.arm != OFF) & ~np.isnan(ours.errors)
    tries = int(np.nansum(ours.connections[treated])) if treated.any() else 0
    at, path = _averaged(bets)
    if not bets:
        return ErrorTest((), (), (), int(np.nansum(ours.errors[treated])), 0, tries, None)
    first = bets[0]
    return ErrorTest(
        tuple(path.tolist()),
        tuple(at.tolist()),
        tuple(dict.fromkeys(one.compared for one in bets)),
        round(first.with_ktls),
        round(first.without),
        tries,
        _chance(first),
    )


def _averaged(bets: Sequence[_Bets]) -> tuple[Array, Array]:
    """A mean of E-values is one, whatever they have to do with each other."""
    at = np.unique(np.concatenate([one.at_s for one in bets])) if bets else np.zeros(0)
    if len(at) == 0:
        return at, at
    total = np.zeros(len(at))
    for one in bets:
        values = np.concatenate([[1.0], np.exp(np.minimum(one.log_path, 700.0))])
        total += one.weight * values[np.searchsorted(one.at_s, at, side="right")]
    return at, total / sum(one.weight for one in bets)


def _chance(bets: _Bets) -> float | None:
    """Chance of at least so many of all failures with kTLS, by its share of the time alone."""
    from scipy.special import betainc

    if bets.with_ktls <= 0:
        return 1.0
    return float(betainc(bets.with_ktls, bets.without + 1, bets.share))


def _by_pairs(pairs: Pairs, hosts: int) -> list[_Bets]:
    """Which block of a pair had more failures: without harm a fair coin, by the draw of their order.

    Half of the money is on all hosts together, the other half on each host alone, lest one sick host is lost in the
    usual failures of many.
    """
    known = np.isfinite(pairs.errors).all(axis=1)
    rate = pairs.errors[known] / pairs.seconds[known]
    host, number, ends = pairs.host[known], pairs.number[known], pairs.ends[known]
    each = rate[:, 1] - rate[:, 0]
    more, at = each, ends
    if metrics.one_schedule(host, number, pairs.order[known]):
        # All hosts switched at once: one coin for each time, not for each host.
        more = np.bincount(number, weights=each)
        at = np.full(len(more), -np.inf)
        np.maximum.at(at, number, ends)
    seconds = pairs.seconds[known].sum(axis=0)
    off, on = pairs.errors[known].sum(axis=0)
    share = float(seconds[1] / seconds.sum()) if seconds.sum() else 0.5

    def bets(more: Array, at: Array, weight: float) -> _Bets:
        differ = np.abs(more) > 1e-12
        return _Bets("blocks with and without kTLS", at[differ], more[differ] > 0, 0.5, on, off, share, weight)

    if hosts == 1:
        return [bets(more, at, 1.0)]
    failing = np.unique(host[np.abs(each) > 1e-12])
    alone = [bets(each[host == index], ends[host == index], 0.5 / hosts) for index in failing.tolist()]
    idle = bets(more[:0], at[:0], 0.5 * (hosts - len(failing)) / hosts)
    return [bets(more, at, 0.5), *alone, idle]


def _by_connections(arms: Mapping[str, Mapping[str, ArmTotals]]) -> _Bets | None:
    """Of the connections that failed, how many had drawn kTLS."""
    totals = [(one["on"], one["off"]) for one in arms.values() if "on" in one and "off" in one]
    on, off = (sum(pair[side].connections for pair in totals) for side in (0, 1))
    if not on or not off:
        return None
    bad_on, bad_off = (sum(min(pair[s].errors, pair[s].connections) for pair in totals) for s in (0, 1))
    share = on / (on + off)
    # The order in which they failed is not known and does not matter: the last value of the path depends on sums only.
    hits = np.repeat([1.0, 0.0], [bad_on, bad_off])
    hits = np.random.default_rng(0).permutation(hits)
    return _Bets("connections drawn by chance", np.arange(1, len(hits) + 1) * 1e-6, hits, share, bad_on, bad_off, share)


def _by_controls(ours: Columns, theirs: Columns) -> _Bets | None:
    """Of the bad minutes of the wave and of later waves, how many are the wave's, against what it was before."""
    first = min(_first_minute(ours), _first_minute(theirs))
    mine, other = _minutes(first, ours, theirs)
    width = min(mine.bad.shape[1], other.bad.shape[1])
    before = -first
    past_mine, past_other = mine.seen[:, :before].sum(), other.seen[:, :before].sum()
    seen_mine, seen_other = mine.seen[:, before:width].sum(axis=0), other.seen[:, before:width].sum(axis=0)
    use = (seen_mine > 0) & (seen_other * 2 >= len(theirs.names))
    if past_mine < _OWN_MINUTES or past_other < _OWN_MINUTES or not use.any():
        return None
    odds = _odds(mine.counted[:, :before].sum(), past_mine, other.counted[:, :before].sum(), past_other, ours, theirs)
    exposure = float((seen_mine[use] / seen_other[use]).max()) * odds
    hits, misses = (one.counted[:, before:width].sum(axis=0) * use for one in (mine, other))
    events = np.concatenate([np.repeat([0.0, 1.0], [int(m), int(h)]) for m, h in zip(misses, hits, strict=True)])
    at = np.repeat((np.arange(len(hits)) + 1) * _MINUTE_S, (hits + misses).astype(int))
    total_mine, total_other = (float((one.errors[:, before:width] * use).sum()) for one in (mine, other))
    share = float(seen_mine[use].sum() / (seen_mine[use].sum() + seen_other[use].sum()))
    compared = f"{len(theirs.names)} hosts of later waves"
    return _Bets(compared, at, events, min(exposure / (1 + exposure), 0.98), total_mine, total_other, share)


def _odds(a: float, a_minutes: float, b: float, b_minutes: float, ours: Columns, theirs: Columns) -> float:
    """How much likelier a bad minute of ours was than one of theirs before the order: a cautious upper value.

    The ratio that was counted, drawn towards one as far as the counts are few, plus 1.28 of its standard deviations
    (which a hundredth part of the hosts pairs exceeds one time in ten).
    """
    ratio = np.log((a + 0.5) / (a_minutes + 1)) - np.log((b + 0.5) / (b_minutes + 1))
    counted = 1 / (a + 0.5) + 1 / (b + 0.5)
    spread = _SPREAD**2 * (1 / len(ours.names) + 1 / len(theirs.names))
    mean = ratio * spread / (spread + counted)
    deviation = np.sqrt(spread * counted / (spread + counted))
    return float(np.exp(max(mean + 1.28 * deviation, 0.0)))


def _by_own_past(ours: Columns) -> _Bets | None:
    """Minutes of the soak in which any host went bad, against the minutes before the order.

    Nothing here shows whether the whole world went bad at that minute, so one burst is never enough.
    """
    from scipy.special import betaincinv

    first = _first_minute(ours)
    (minutes,) = _minutes(first, ours)
    before = -first
    seen = minutes.seen.any(axis=0)
    past = int(seen[:before].sum())
    if past < _OWN_MINUTES:
        return None
    bad = minutes.counted.any(axis=0)
    hits = int(bad[:before].sum())
    null = max(_OWN_LEAST, float(betaincinv(hits + 1, past - hits + 1, 0.9)))
    use = seen[before:]
    share = float(use.sum() / (use.sum() + past))
    at = (np.flatnonzero(use) + 1) * _MINUTE_S
    errors = minutes.errors.sum(axis=0)
    return _Bets(
        "the minutes before the order",
        at,
        bad[before:][use].astype(float),
        min(null, 0.98),
        float(errors[before:].sum()),
        float(errors[:before].sum()),
        share,
    )


@dataclass(frozen=True)
class _Minutes:
    """Host by minute: failures, whether there were samples, whether it was bad, and bad ones that count."""

    errors: Array
    seen: Array
    bad: Array
    counted: Array

    @staticmethod
    def of(columns: Columns, first: int) -> _Minutes:
        """:param first: number of the first minute; 0 is the first one of the soak. All that is bad counts."""
        rows = np.flatnonzero(np.isfinite(columns.errors))
        minute = _minute(columns)[rows] - first
        width = max(int(minute.max()) + 1 if len(minute) else 0, 1 - first)
        cell = columns.host[rows] * width + minute
        shape = (columns.hosts, width)
        size = columns.hosts * width
        errors = np.bincount(cell, weights=columns.errors[rows], minlength=size).reshape(shape)
        seconds = np.bincount(cell, weights=columns.seconds[rows], minlength=size).reshape(shape)
        seen = seconds >= _MINUTE_S / 2
        bad = seen & (errors > _usual(errors[:, :-first], seen[:, :-first])[:, None])
        return _Minutes(errors, seen, bad, bad)


def _minutes(first: int, *tables: Columns) -> list[_Minutes]:
    """Minutes of several tables, bursts counted once."""
    found = [_Minutes.of(table, first) for table in tables]
    burst = _burst([one.bad[:, :-first] for one in found])
    return [replace(one, counted=_thin(one.bad, burst)) for one in found]


def _burst(past: Sequence[Array]) -> int:
    """For how long a bad minute speaks for those after it: half as long again as bursts were, gaps in them included."""
    gap, inside, bursts = _BURST_LEAST, 0, 0
    for bad in past:
        recent = np.zeros_like(bad)
        for back in range(1, gap + 1):
            recent[:, back:] |= bad[:, :-back]
        starts = int((bad & ~recent).sum())
        inside += int((bad | recent).sum()) - gap * starts
        bursts += starts
    return min(max(_BURST_LEAST, round(1.5 * inside / bursts) if bursts else 0), _BURST_MOST)


def _minute(columns: Columns) -> Array:
    return np.floor((columns.since - columns.seconds / 2) / _MINUTE_S).astype(int)


def _first_minute(columns: Columns) -> int:
    """Number of the oldest minute, below 0."""
    return min(int(_minute(columns).min()), -1) if len(columns.host) else -1


def _usual(errors: Array, seen: Array) -> Array:
    """What nine of ten minutes of each host's baseline did not exceed; 0 without a baseline."""
    if errors.shape[1] == 0:
        return np.zeros(len(errors))
    ordered = np.sort(np.where(seen, errors, np.inf), axis=1)
    rank = np.ceil(0.9 * seen.sum(axis=1)).astype(int) - 1
    picked = ordered[np.arange(len(errors)), np.maximum(rank, 0)]
    return np.where(np.isfinite(picked), picked, 0.0)


def _thin(bad: Array, burst: int) -> Array:
    """Bad minutes of each host, less those that follow a counted one within a burst's length."""
    counted = np.zeros_like(bad)
    rest = np.zeros(len(bad), dtype=int)
    for minute in np.flatnonzero(bad.any(axis=0)).tolist() if bad.size else []:
        free = bad[:, minute] & (rest <= minute)
        counted[:, minute] = free
        rest[free] = minute + burst
    return counted


def floods(ours: Columns, theirs: Columns | None) -> dict[str, str]:
    """Hosts that kTLS floods with failures right now, and by how many: nothing to test there."""
    worst = 0.0
    for columns in (ours, theirs):
        if columns is not None:
            rate, *_ = _rates(columns, columns.arm == OFF)
            worst = max(worst, float(rate.max(initial=0.0)))
    rate, errors, connections = _rates(ours, (ours.since > 0) & (ours.arm != OFF))
    hit = (errors >= FLOOD) & (errors >= _FLOOD_SHARE * connections) & (rate >= _FLOOD_TIMES * worst)
    return {
        ours.names[index]: f"{int(errors[index].max())} failures within a minute with kTLS"
        for index in np.flatnonzero(hit.any(axis=1)).tolist()
    }


def _rates(columns: Columns, which: Array) -> tuple[Array, Array, Array]:
    """Failures a minute, failures and connections of each host and minute, of some rows alone."""
    rows = np.flatnonzero(which & np.isfinite(columns.errors))
    if len(rows) == 0:
        return (np.zeros((columns.hosts, 1)),) * 3
    minute = _minute(columns)[rows]
    minute = minute - minute.min()
    width = int(minute.max()) + 1
    cell, size = columns.host[rows] * width + minute, columns.hosts * width
    errors, seconds, connections = (
        np.bincount(cell, weights=np.nan_to_num(values[rows]), minlength=size).reshape(-1, width)
        for values in (columns.errors, columns.seconds, columns.connections)
    )
    return errors * _MINUTE_S / np.maximum(seconds, 10.0), errors, connections
