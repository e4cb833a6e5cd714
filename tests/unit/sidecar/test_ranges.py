# SPDX-License-Identifier: Apache-2.0
"""Byte ranges against a plain model of RFC 9110 section 14."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_sidecar.web.ranges import RANGES_MAX, UnsatisfiableError, parse_range, parse_ranges

DATA = bytes(range(100))


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-", (0, 100)),
        ("bytes=10-19", (10, 10)),
        ("bytes=99-", (99, 1)),
        ("bytes=50-1000", (50, 50)),
        ("bytes=-1", (99, 1)),
        ("bytes=-1000", (0, 100)),
        ("BYTES=0-0", (0, 1)),
        ("bytes=0-9,20-29", None),
        ("bytes=9-0", None),
        ("bytes=-", None),
        ("bytes=", None),
        ("bytes=a-b", None),
        ("bytes=1 - 2", None),
        ("bytes=-5-6", None),
        ("bytes=+1-2", None),
        ("bytes=\u0661-", None),
        ("items=0-5", None),
        ("bytes=" + "9" * 20 + "-", None),
        ("", None),
    ],
)
def test_known(field: str, expected: tuple[int, int] | None) -> None:
    assert parse_range(field, len(DATA)) == expected


@pytest.mark.parametrize(
    ("field", "size"), [("bytes=100-", 100), ("bytes=100-200", 100), ("bytes=-0", 100), ("bytes=0-", 0)]
)
def test_unsatisfiable(field: str, size: int) -> None:
    with pytest.raises(UnsatisfiableError):
        parse_range(field, size)


@given(st.integers(0, 150), st.integers(0, 150))
def test_first_last(first: int, last: int) -> None:
    wanted = DATA[first : last + 1]
    try:
        found = parse_range(f"bytes={first}-{last}", len(DATA))
    except UnsatisfiableError:
        assert first >= len(DATA)
        assert first <= last
        return
    if found is None:
        assert last < first
    else:
        assert DATA[found[0] : found[0] + found[1]] == wanted
        assert found[1] == len(wanted) > 0


@given(st.integers(1, 150))
def test_suffix(length: int) -> None:
    found = parse_range(f"bytes=-{length}", len(DATA))
    assert found is not None
    assert DATA[found[0] : found[0] + found[1]] == DATA[-length:]


@given(st.text(max_size=30), st.integers(0, 1000))
def test_anything_stays_inside(text: str, size: int) -> None:
    try:
        found = parse_range("bytes=" + text, size)
    except UnsatisfiableError:
        return
    if found is not None:
        assert 0 <= found[0] < found[0] + found[1] <= size


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("bytes=0-9", [(0, 10)]),
        ("bytes=0-9,20-29", [(0, 10), (20, 10)]),
        ("bytes=20-29,0-9", [(20, 10), (0, 10)]),
        ("bytes= 0-9 ,\t20-29", [(0, 10), (20, 10)]),
        ("bytes=,0-9,,20-29,", [(0, 10), (20, 10)]),
        ("bytes=0-9,5-19", [(0, 20)]),
        ("bytes=0-9,10-19", [(0, 10), (10, 10)]),
        ("bytes=-10,0-,5-5", [(0, 100)]),
        ("bytes=80-,0-1,-5", [(80, 20), (0, 2)]),
        ("bytes=0-0,200-300", [(0, 1)]),
        ("bytes=0-9,x", None),
        ("bytes=0-9,9-8", None),
        ("bytes=,", None),
        ("items=0-1,3-4", None),
        ("bytes=" + ",".join(f"{2 * n}-{2 * n}" for n in range(RANGES_MAX)), [(2 * n, 1) for n in range(RANGES_MAX)]),
        ("bytes=" + ",".join(f"{2 * n}-{2 * n}" for n in range(RANGES_MAX + 1)), None),
        ("bytes=0-1" + "," * 1000, None),
        ("bytes=" + "0-," * 16000, None),
    ],
)
def test_several(field: str, expected: list[tuple[int, int]] | None) -> None:
    assert parse_ranges(field, len(DATA)) == expected


@pytest.mark.parametrize("field", ["bytes=100-,200-", "bytes=-0,-0", "bytes=100-"])
def test_several_unsatisfiable(field: str) -> None:
    with pytest.raises(UnsatisfiableError):
        parse_ranges(field, len(DATA))


@given(st.text(alphabet="bytes=0123456789-, \t", max_size=60), st.integers(0, 1000))
def test_the_sum_is_never_more_than_the_file(text: str, size: int) -> None:
    try:
        found = parse_ranges("bytes=" + text, size)
    except UnsatisfiableError:
        return
    for offset, length in found or []:
        assert 0 <= offset < offset + length <= size
    assert sum(length for _, length in found or []) <= size
