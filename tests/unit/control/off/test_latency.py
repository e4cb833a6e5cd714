# SPDX-License-Identifier: Apache-2.0
"""Percentiles and drain curves."""

from __future__ import annotations

import pytest

from ktls_control.off.latency import drained, fleet, percentile, spread, together
from ktls_control.off.model import OffResult


def off(name: str, none_left: float | None, curve: tuple[tuple[float, int], ...], left: int = 0) -> OffResult:
    return OffResult(
        name, True, True, True, 1.0, none_left, left, None, drained(curve, none_left), 0.5, "agent", curve=curve
    )


@pytest.mark.parametrize(
    ("curve", "none_left", "expected"),
    [
        ((), None, None),
        (((1.0, 0),), 0.2, 0.2),
        (((1.0, 10), (2.0, 5), (3.0, 1), (4.0, 0)), 3.7, 3.0),
        (((1.0, 10), (9.0, 0)), 4.2, 4.2),
        (((1.0, 5), (2.0, 10), (3.0, 2)), None, None),
        (((1.0, 0), (2.0, 10), (3.0, 1)), None, 3.0),
        (((1.0, 9),), None, None),
    ],
)
def test_drained(curve: tuple[tuple[float, int], ...], none_left: float | None, expected: float | None) -> None:
    assert drained(curve, none_left) == expected


def test_a_fleet_has_drained_when_nine_of_ten_of_all_connections_have() -> None:
    small = off("a", 2.0, ((1.0, 10), (2.0, 0)))
    large = off("b", 9.0, ((1.0, 90), (5.0, 20), (8.0, 5), (9.0, 0)))
    took = fleet([small, large])
    assert (took.drained_90_s, took.none_left_s, took.left) == (8.0, 9.0, 0)
    assert together([small.curve, large.curve])[-1] == (9.0, 0)


def test_one_that_still_drains_leaves_the_fleet_without_an_end() -> None:
    took = fleet([off("a", 2.0, ((1.0, 1), (2.0, 0))), off("b", None, ((1.0, 100),), left=100)])
    assert (took.none_left_s, took.drained_90_s, took.left) == (None, None, 100)
    assert took.spread["none_left_s"].hosts == 1


def test_nobody() -> None:
    took = fleet([])
    assert (took.last_new_s, took.drained_90_s, took.none_left_s, took.left) == (None, None, None, 0)
    assert spread([None]).p50 is None


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50.0, 90.0, 99.0, 100.0]
    assert percentile([7.0], 0.5) == 7.0
    assert percentile([1.0, 2.0, 3.0], 0.99) == 3.0
