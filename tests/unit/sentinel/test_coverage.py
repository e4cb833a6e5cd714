# SPDX-License-Identifier: Apache-2.0
"""Bytes of a stream that were seen: against a set of numbers, which is slow and plain."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ktls_sentinel import coverage
from ktls_sentinel.coverage import Coverage

PIECES = st.lists(st.tuples(st.integers(-60, 200), st.integers(0, 40)), max_size=40)


@given(PIECES, st.integers(0, (1 << 32) - 1))
def test_each_byte_counts_once_in_any_order_and_over_the_wrap(pieces: list[tuple[int, int]], base: int) -> None:
    found = Coverage()
    model: set[int] = set()
    for start, length in pieces:
        found.add((base + start) % (1 << 32), length)
        model.update(range(start, start + length))
        assert found.bytes == len(model)


def test_a_gap_is_a_gap_and_many_of_them_have_an_end() -> None:
    found = Coverage()
    found.add(0, 10)
    found.add(20, 10)
    assert found.bytes == 20
    for index in range(coverage._MAX_GAPS + 100):
        found.add(100 + 2 * index, 1)
    assert len(found._starts) == coverage._MAX_GAPS
    found.add(10, 10)
    assert found._starts[0] + 30 == found._ends[0]
