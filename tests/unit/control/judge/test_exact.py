# SPDX-License-Identifier: Apache-2.0
"""The two randomisation tests: against the libraries, against brute force, and what their bounds promise."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from ktls_control.judge import exact


def flips(values: list[float], at: float = 0.0) -> float:
    """p-value of "the mean is at most ``at``" by all sign flips, as a text book has it."""
    shifted = np.asarray(values) - at
    signs = np.array(list(itertools.product((-1, 1), repeat=len(values))))
    return float((signs @ shifted >= shifted.sum() - 1e-12).mean())


@pytest.mark.parametrize("seed", range(5))
def test_sign_flips_are_those_of_the_book(seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.3, 1, 9).tolist()
    tested = exact.sign_flip(values, 0.05, 0.05)
    assert tested.p == pytest.approx(flips(values))
    assert tested.smallest == 2**-9
    # At the lower bound the test is on the edge of rejecting.
    assert flips(values, tested.low - 1e-9) <= 0.05 < flips(values, tested.low + 1e-9)
    mirrored = exact.sign_flip([-value for value in values], 0.05, 0.05)
    assert (mirrored.low, mirrored.high) == pytest.approx((-tested.high, -tested.low))


def test_sign_flips_agree_with_scipy() -> None:
    values = np.random.default_rng(7).normal(0.2, 1, 11)
    theirs = stats.permutation_test(
        (values,), lambda x, axis: np.mean(x, axis=axis), permutation_type="samples", alternative="greater"
    )
    assert exact.sign_flip(values, 0.05, 0.05).p == pytest.approx(theirs.pvalue)


@pytest.mark.parametrize("n", [13, 30, 49, 200])
def test_drawn_flips_and_the_formula_are_near_the_t_test_on_normal_noise(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(5):
        values = rng.normal(0.1, 1, n)
        tested = exact.sign_flip(values, 0.025, 0.025)
        theirs = stats.ttest_1samp(values, 0.0, alternative="greater").pvalue
        reach = -stats.t.ppf(0.025, n - 1) * values.std(ddof=1) / math.sqrt(n)
        assert tested.p == pytest.approx(theirs, abs=0.02)
        assert tested.high - tested.effect == pytest.approx(reach, rel=0.15)
        assert tested.effect - tested.low == pytest.approx(reach, rel=0.15)


def test_too_few_pairs_have_no_bounds() -> None:
    tested = exact.sign_flip([0.1, 0.2, 0.3], 0.05, 0.05)
    assert (tested.low, tested.high, tested.smallest) == (-math.inf, math.inf, 0.125)


def test_permutation_agrees_with_scipy() -> None:
    rng = np.random.default_rng(3)
    ours, theirs = rng.normal(0.5, 1, 3), rng.normal(0, 1, 9)
    expected = stats.permutation_test(
        (ours, theirs), lambda x, y, axis: np.mean(x, axis=axis) - np.mean(y, axis=axis), alternative="greater"
    )
    tested = exact.permutation(ours, theirs, 0.05, 0.05)
    assert tested.p == pytest.approx(expected.pvalue)
    assert tested.smallest == pytest.approx(1 / math.comb(12, 3))


def test_the_permutations_bound_is_where_the_test_turns() -> None:
    rng = np.random.default_rng(4)
    ours, theirs = rng.normal(0.5, 1, 4), rng.normal(0, 1, 8)
    low = exact.permutation(ours, theirs, 0.05, 0.05).low
    assert exact.permutation(ours - (low - 1e-9), theirs, 0.05, 0.05).p <= 0.05
    assert exact.permutation(ours - (low + 1e-9), theirs, 0.05, 0.05).p > 0.05


def test_many_hosts_are_drawn_not_counted() -> None:
    rng = np.random.default_rng(5)
    tested = exact.permutation(rng.normal(1.0, 1, 30), rng.normal(0, 1, 60), 0.01, 0.01)
    assert 0 < tested.p < 0.01 and 0 < tested.low < tested.effect < tested.high


def test_the_worst_of_many_hosts_is_no_surprise() -> None:
    rng = np.random.default_rng(6)
    values = [exact.worst_of(rng.normal(0, 1, (20, 10)), together=False)[1] for _ in range(200)]
    assert stats.kstest(values, "uniform").pvalue > 0.01
    sick = rng.normal(0, 0.1, (20, 10))
    sick[7] += 1
    worst, chance = exact.worst_of(sick, together=False)
    assert worst == 7 and chance == pytest.approx(2**-10, rel=0.01)
    assert exact.worst_of(np.tile(rng.normal(0.1, 1, 10), (20, 1)), together=True)[1] > 0.01


def test_bounds_cover_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(8)
    below = above = 0
    for _ in range(600):
        tested = exact.sign_flip(rng.laplace(0.3, 1, 10), 0.05, 0.05)
        below += tested.high < 0.3
        above += tested.low > 0.3
    assert below < 48 and above < 48
