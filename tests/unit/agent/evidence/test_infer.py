# SPDX-License-Identifier: Apache-2.0
"""What numbers prove about bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.evidence.infer import UNBOUNDED, Bounds, Certain, Contexts, attribute, bounds


def tx(number: int) -> Contexts:
    return Contexts(tx_sw=number)


@pytest.mark.parametrize(
    ("first", "second", "seen", "complete", "least", "most"),
    [
        ((10, 10), (15, 15), 0, True, 5, 5),
        ((10, 10), (15, 15), 3, True, 2, 2),
        # Opened while a dump ran: it may be of this time or that one, and may have been seen or not.
        ((8, 10), (15, 16), 3, True, 2, 5),
        ((10, 10), (11, 11), 3, True, 0, 0),
        ((10, 10), (15, 15), 3, False, 0, 2),
        # The module was loaded anew, before or in the middle of a dump.
        ((10, 10), (4, 4), 0, True, 0, UNBOUNDED),
        ((10, 10), (12, 1), 0, True, 0, UNBOUNDED),
    ],
)
def test_bounds(
    first: tuple[int, int], second: tuple[int, int], seen: int, complete: bool, least: int, most: int
) -> None:
    found = bounds(tx(first[0]), tx(first[1]), tx(second[0]), tx(second[1]), (seen, 0, 0, 0), complete)
    assert (found.least.tx_sw, found.most.tx_sw) == (least, most)
    assert found.least.rx_sw == found.most.rx_sw == 0


def exactly(tx_sw: int = 0, tx_hw: int = 0, rx_sw: int = 0, rx_hw: int = 0) -> Bounds:
    found = Contexts(tx_sw, tx_hw, rx_sw, rx_hw)
    return Bounds(found, found)


@pytest.mark.parametrize(
    ("unseen", "others", "parts"),
    [
        (exactly(), 9, [Certain("none", "none", 3, 60, 6)]),
        (exactly(tx_sw=3), 0, [Certain("sw", "none", 3, 60, 6)]),
        (exactly(tx_hw=3), 0, [Certain("hw", "none", 3, 60, 6)]),
        (exactly(tx_sw=3, rx_sw=3), 0, [Certain("sw", "sw", 3, 60, 6)]),
        (exactly(tx_hw=3, rx_sw=3), 0, [Certain("hw", "sw", 3, 60, 6)]),
        (exactly(tx_sw=3), 1, [Certain("sw", "none", 2, 30, 3)]),
        (exactly(tx_sw=1), 0, [Certain("sw", "none", 1, 10, 1), Certain("none", "none", 2, 30, 3)]),
        (exactly(tx_sw=1), 1, [Certain("none", "none", 2, 30, 3)]),
        # Which of the three received by kTLS? Two did, and all three sent by it: two did both.
        (exactly(tx_sw=3, rx_sw=2), 0, [Certain("sw", "sw", 2, 30, 3), Certain("sw", "none", 1, 10, 1)]),
        (exactly(tx_sw=2, rx_sw=2), 0, [Certain("sw", "sw", 1, 10, 1)]),  # the two need not be the same
        (exactly(tx_sw=1, rx_sw=1), 0, [Certain("none", "none", 1, 10, 1)]),
        (exactly(tx_sw=2, tx_hw=1), 0, []),  # and which sent by hardware?
        (exactly(tx_sw=1, tx_hw=1), 0, [Certain("none", "none", 1, 10, 1)]),
        (Bounds(), 0, []),
    ],
)
def test_three_connections(unseen: Bounds, others: int, parts: list[Certain]) -> None:
    assert attribute([(10, 1), (20, 2), (30, 3)], others, unseen) == parts


def test_others_may_be_more_for_sending_than_for_receiving() -> None:
    volumes = [(10, 1), (20, 2), (30, 3)]
    assert attribute(volumes, 0, exactly(tx_sw=3, rx_sw=4), 1) == [Certain("sw", "sw", 3, 60, 6)]
    assert attribute(volumes, 1, exactly(tx_sw=3, rx_sw=3), 0) == [Certain("sw", "sw", 2, 30, 3)]


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.booleans()), max_size=12), st.integers(0, 5))
def test_never_more_than_the_truth(conns: list[tuple[int, int, bool]], others: int) -> None:
    contexts = sum(ktls for _, _, ktls in conns)
    for elsewhere in range(others + 1):
        for part in attribute([(s, r) for s, r, _ in conns], others, exactly(tx_sw=contexts + elsewhere)):
            of_kind = [(s, r) for s, r, ktls in conns if ktls == (part.tx == "sw")]
            assert part.sent <= sum(s for s, _ in of_kind)
            assert part.received <= sum(r for _, r in of_kind)
            assert part.number <= len(of_kind)


CONN = st.tuples(st.integers(0, 1000), st.integers(0, 1000), st.sampled_from(("none", "sw")), st.booleans())


@given(st.lists(CONN, max_size=10), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_never_more_than_the_truth_in_both_directions(
    conns: list[tuple[int, int, str, bool]], others: int, receiving: int, tx_elsewhere: int, rx_elsewhere: int
) -> None:
    """Each direction by itself in the kernel or not, and other connections with contexts of their own."""
    kinds = [(s, r, place, place if both else "none") for s, r, place, both in conns]
    unseen = exactly(
        tx_sw=sum(kind[2] == "sw" for kind in kinds) + min(tx_elsewhere, others),
        rx_sw=sum(kind[3] == "sw" for kind in kinds) + min(rx_elsewhere, receiving),
    )
    for part in attribute([kind[:2] for kind in kinds], others, unseen, receiving):
        of_kind = [kind for kind in kinds if kind[2:] == (part.tx, part.rx)]
        assert part.number <= len(of_kind)
        assert part.sent <= sum(kind[0] for kind in of_kind)
        assert part.received <= sum(kind[1] for kind in of_kind)
