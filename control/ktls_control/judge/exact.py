# SPDX-License-Identifier: Apache-2.0
"""Two randomisation tests with their intervals: sign flips of pairs, and permutation of hosts.

Both ask how the estimate would look had chance dealt otherwise, with the noise that is there, whatever its form. The
libraries give the p-values of such tests; their intervals, by which promotion goes, are here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Any

import numpy as np

#: A NumPy array of floats; numpy's own generic names say no more to a reader.
Array = Any

#: Up to so many pairs all flips are looked at; above it, so many drawn ones (fixed seed); above that, a formula.
_ALL_PAIRS, _DRAWN, _FORMULA_PAIRS = 12, 8191, 48
_ALL_HOSTS = 20_000


@dataclass(frozen=True)
class Tested:
    """An estimate with its one-sided p-value for "not above zero", and one-sided bounds.

    :param smallest: smallest p-value that the test could have given with so few data.
    """

    effect: float
    low: float
    high: float
    p: float
    smallest: float


def sign_flip(differences: Array, alpha_low: float, alpha_high: float) -> Tested:
    """Test that the mean of randomly signed ``differences`` is not above zero.

    The p-value of "the mean is at most x" is the share of subsets whose mean is at most x (Hartigan, Using subsample
    values as typical values, JASA 1969), so one sorted list of subset means gives p-value and both bounds.

    :param alpha_low: error rate of the lower bound; ``alpha_high``: of the upper one.
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    mean = float(values.mean())
    if n > _FORMULA_PAIRS:
        return _many_pairs(values, mean, alpha_low, alpha_high)
    subsets, sizes = _subsets(n)
    means = np.sort((subsets @ values.astype(subsets.dtype)) / sizes)
    total = len(means) + 1  # the empty subset, whose mean is below everything
    p = (1 + int(np.searchsorted(means, 0.0, side="right"))) / total
    return Tested(
        mean,
        _order_statistic(means, alpha_low, total),
        -_order_statistic(-means[::-1], alpha_high, total),
        p,
        1 / total,
    )


def worst_of(differences: Array, together: bool) -> tuple[int, float]:
    """Test that no row of randomly signed ``differences`` (hosts by pairs, NaN for none) has a mean above zero.

    :param together: all hosts have one draw for each pair; else each has its own.
    :returns: the row that is worst, and the chance that any row would look as bad: hosts are many, so some host always
        looks bad, and this chance takes that into account.
    """
    values = np.nan_to_num(np.asarray(differences, dtype=float))
    rows = _signs(values.shape[1])
    sums = rows @ values.T.astype(rows.dtype)
    seen = values.sum(axis=1)
    worst = int(np.argmax(seen))
    bar = seen[worst] * (1 - 1e-6)
    if together:
        return worst, float((sums.max(axis=1) >= bar).mean())
    return worst, 1 - float(np.prod(1 - (sums >= bar).mean(axis=0)))


@lru_cache(maxsize=64)
def _signs(n: int) -> Array:
    """Rows of -1 and 1: all, or a fixed sample with its negatives; what was dealt is among them."""
    if n <= _ALL_PAIRS:
        rows = 2.0 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) - 1
    else:
        rows = 2.0 * np.random.default_rng(n).integers(0, 2, (_DRAWN, n)) - 1
        rows[0] = 1
    return rows.astype(np.float32)


def _order_statistic(ordered: Array, alpha: float, total: int) -> float:
    """Largest bound that at most a share ``alpha`` of ``total`` (one of them at minus infinity) lies at or below."""
    rank = math.floor(alpha * total + 1e-9)  # so many may lie at or below it, the unseen one among them
    return float(ordered[rank - 1]) if rank >= 1 else -math.inf


@lru_cache(maxsize=256)
def _subsets(n: int) -> tuple[Array, Array]:
    """Rows of 0 and 1, all non-empty subsets of n or a fixed sample of them; and how many ones each has."""
    if n <= _ALL_PAIRS:
        rows = (np.arange(1, 2**n)[:, None] >> np.arange(n)) & 1
    else:
        rows = np.random.default_rng(n).integers(0, 2, (_DRAWN, n))
        rows = rows[rows.any(axis=1)]
    table = rows.astype(np.float32 if n > 24 else np.float64)
    return table, table.sum(axis=1)


def _many_pairs(values: Array, mean: float, alpha_low: float, alpha_high: float) -> Tested:
    """Normal approximation of the flips' distribution: its variance is the sum of squares exactly."""
    from scipy.special import ndtr, ndtri

    n = len(values)
    variance = float(values.var())

    def reach(alpha: float) -> float:
        z = -float(ndtri(alpha))
        return z * math.sqrt(variance / (n - z * z)) if n > z * z else math.inf

    square = float(np.square(values).sum())
    p = float(ndtr(-float(values.sum()) / math.sqrt(square))) if square else 1.0
    return Tested(mean, mean - reach(alpha_low), mean + reach(alpha_high), p, 0.0)


def permutation(ours: Array, theirs: Array, alpha_low: float, alpha_high: float) -> Tested:
    """Test that the mean of ``ours`` is not above the mean of ``theirs``, whose places chance dealt.

    For each other choice of hosts there is one shift from which on it would be at least as far out as the true one;
    the sorted list of these shifts gives p-value and both bounds.
    """
    values = np.concatenate([np.asarray(ours, float), np.asarray(theirs, float)])
    k, n = len(ours), len(values)
    true = float(np.mean(ours) - np.mean(theirs))
    picks = _picks(n, k)
    total = len(picks) + 1  # the true choice
    inside = picks @ values
    effects = inside / k - (values.sum() - inside) / (n - k)
    overlap = picks[:, :k].sum(axis=1)
    moved = overlap / k - (k - overlap) / (n - k)
    shifts = np.sort((true - effects) / (1 - moved))
    p = (1 + int(np.searchsorted(shifts, 0.0, side="right"))) / total
    return Tested(
        true,
        _order_statistic(shifts, alpha_low, total),
        -_order_statistic(-shifts[::-1], alpha_high, total),
        p,
        1 / total,
    )


@lru_cache(maxsize=64)
def _picks(n: int, k: int) -> Array:
    """Choices of k of n but the first k, as rows of 0 and 1: all, or a fixed sample of them."""
    if math.comb(n, k) <= _ALL_HOSTS:
        index = np.array(list(combinations(range(n), k)))
    else:
        index = np.argsort(np.random.default_rng(n * 1000 + k).random((_DRAWN, n)), axis=1)[:, :k]
    table = np.zeros((len(index), n))
    np.put_along_axis(table, index, 1.0, axis=1)
    return table[table[:, :k].sum(axis=1) < k]
