# SPDX-License-Identifier: Apache-2.0
"""Many names in few characters, and none of them lost."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_control.preflight_names import fold, natural


def unfold(text: str) -> list[str]:
    """The names that :func:`fold` shows, as a reader would spell them out."""
    names = []
    for item in re.findall(r"[^,\[\]]*\[[^\]]*\][^,]*|[^,]+", text):
        before, bracket, rest = item.strip().partition("[")
        inside, _, after = rest.partition("]")
        for piece in inside.split(",") if bracket else [""]:
            start, dash, end = piece.partition("-")
            last = int(end) if dash else int(start or 0)
            numbers = [str(n).zfill(len(start)) for n in range(int(start or 0), last + 1)] if bracket else [""]
            names += [f"{before}{number}{after}" for number in numbers]
    return names


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], ""),
        (["web1"], "web1"),
        (["web1", "web2"], "web[1-2]"),
        (["web9", "web10", "web12"], "web[9-10,12]"),
        (["web08", "web09", "web10"], "web[08-10]"),
        (["web1", "web01"], "web[1,01]"),
        (["db3", *(f"web{n}" for n in range(1, 41))], "db3, web[1-40]"),
        (["10.0.0.1", "10.0.0.2", "10.0.1.2"], "10.0.0.[1-2], 10.0.1.2"),
        (["web1.dc2.example.org", "web2.dc2.example.org"], "web[1-2].dc2.example.org"),
        (["localhost", "a-b"], "a-b, localhost"),
    ],
)
def test_folded(names: list[str], text: str) -> None:
    assert fold(names) == text


def test_what_does_not_fit_is_counted() -> None:
    text = fold([f"web{n}" for n in range(1, 5000, 2)], 40)
    shown, _, more = text.partition(" and ")
    assert len(shown) <= 40
    assert more == f"{2500 - len(unfold(shown)):,} more"
    assert fold(["a-very-long-name", "b"], 3) == "a-very-long-name and 1 more", "one name is better than none"


def test_as_people_count() -> None:
    assert sorted(["web10", "web2", "web", "2web", "web02"], key=natural) == ["2web", "web", "web02", "web2", "web10"]


names = st.sets(
    st.from_regex(r"(web|db|10\.)[0-9]{1,3}(-[0-9]{1,2})?(\.x)?", fullmatch=True) | st.sampled_from(["a", "b-c"]),
    max_size=30,
)


@given(names)
def test_nothing_is_lost_and_nothing_is_invented(given_names: set[str]) -> None:
    assert sorted(unfold(fold(given_names))) == sorted(given_names)


@given(names, st.integers(1, 60))
def test_shown_and_the_rest_are_all(given_names: set[str], budget: int) -> None:
    shown, _, more = fold(given_names, budget).partition(" and ")
    rest = int(more.removesuffix(" more") or 0)
    assert set(unfold(shown)) <= given_names
    assert len(unfold(shown)) + rest == len(given_names)
    assert len(shown) <= max(budget, max(map(len, given_names), default=0))


def test_thousands_of_names_are_folded_quickly() -> None:
    scattered = [f"web{n * 2}.dc{n % 7}.example.org" for n in range(5000)]
    started = time.process_time()
    fold(scattered, 200)
    assert time.process_time() - started < 1
