# SPDX-License-Identifier: Apache-2.0
"""Samples of several hosts become one picture's numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_control import picture, timeline
from ktls_control.sampler import Sample, parse
from ktls_control.timeline import Mark


def sample(host: str, at: float, ktls: int, userspace: int, connections: int = 1) -> Sample:
    return Sample(host, at, {"ktls_tx": connections, "userspace": 0}, {"ktls_tx": ktls, "userspace": userspace})


def test_rates_are_sums_over_hosts() -> None:
    first, last = [("a", 100.0, 0, 0), ("b", 100.5, 0, 500)], [("a", 102.0, 2000, 0), ("b", 102.5, 0, 500)]
    series = [sample(*fields) for fields in first + last]
    origin, line = timeline.build(series)
    assert origin == 100.0
    assert line.seconds == [0.0, 1.0, 2.0]
    assert line.rates["ktls_tx"] == [0.0, 1000.0, 1000.0]
    assert line.rates["userspace"] == [0.0, 0.0, 0.0]
    assert line.connections["ktls_tx"] == [2.0, 2.0, 2.0]


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 10**9)), min_size=1, max_size=30))
def test_no_rate_is_negative_even_when_a_counter_restarts(points: list[tuple[float, int]]) -> None:
    series = [sample("a", at, count, 0) for at, count in sorted(points)]
    assert min(timeline.build(series)[1].rates["ktls_tx"]) >= 0


def test_no_samples_no_picture() -> None:
    assert timeline.build([])[1].seconds == []


@pytest.mark.parametrize("line", ["", "{", "[]", "{}", '{"sidecar": null}'])
def test_lines_without_counts_are_passed_over(line: str) -> None:
    assert parse("web1", line, 1.0) is None


def test_the_picture_is_the_same_for_the_same_numbers_and_refers_to_nothing() -> None:
    _origin, line = timeline.build([sample("a", 0.0, 0, 0), sample("a", 3.0, 3_000_000, 0)])
    marks = [Mark("wave 1", 1.0, 2.0, "wave"), Mark("off", 2.5, None, "off")]
    first = picture.draw(line, marks)
    assert first == picture.draw(line, marks)
    assert first.startswith("<svg")
    for text in ("wave 1", "off", "kTLS transmit", "userspace TLS"):
        assert f">{text}<" in first
