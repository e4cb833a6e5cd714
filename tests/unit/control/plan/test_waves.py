# SPDX-License-Identifier: Apache-2.0
"""Waves: everybody in exactly one, caps held, kinds early, and one host more moves nobody who need not."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction
from statistics import mean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_control.errors import ControlError
from ktls_control.plan.policy import Policy, Size
from ktls_control.plan.waves import MOST_WAVES, assign, limits, order

Hosts = Mapping[str, Mapping[str, str]]
DEFAULT = [entry.size for entry in Policy().waves]
CAPS = {label: Policy().cap(label) for label in ("rack", "nic_model", "kernel")}
NO_CAPS: Mapping[str, Fraction] = {}

labels = st.fixed_dictionaries(
    {
        "rack": st.sampled_from(["", "r1", "r2", "r3", "r4"]),
        "nic_model": st.sampled_from(["", "mlx5", "ice"]),
        "kernel": st.sampled_from(["6.1", "6.12"]),
    }
)
fleets = st.dictionaries(st.integers(1, 300).map("web{}".format), labels, min_size=1, max_size=40)
counts = st.builds(Size, count=st.integers(1, 20))
shares = st.builds(Size, share=st.fractions(Fraction(1, 100), 1))
size_lists = st.lists(counts | shares, min_size=1, max_size=5)
cap_maps = st.dictionaries(st.sampled_from(sorted(CAPS)), st.fractions(Fraction(1, 10), 1))


def draw(
    hosts: Hosts, sizes: Sequence[Size] = DEFAULT, caps: Mapping[str, Fraction] = CAPS, canaries: Sequence[str] = ()
) -> list[list[str]]:
    return assign(hosts, [size.of for size in sizes], caps, "salt", canaries)


def numbers(waves: Sequence[Sequence[str]]) -> dict[str, int]:
    return {name: number for number, wave in enumerate(waves) for name in wave}


@given(fleets, size_lists, cap_maps)
@settings(max_examples=60)
def test_everybody_is_in_one_wave_that_is_no_larger_than_it_may_be(
    hosts: Hosts, sizes: list[Size], caps: dict[str, Fraction]
) -> None:
    waves = draw(hosts, sizes, caps)
    assert sorted(name for wave in waves for name in wave) == sorted(hosts)
    assert all(waves)
    allowed = limits(hosts, caps)
    for number, wave in enumerate(waves):
        assert len(wave) <= sizes[min(number, len(sizes) - 1)].of(len(hosts))
        taken = Counter(item for name in wave for item in hosts[name].items())
        assert all(taken[item] <= most for item, most in allowed.items())


@given(fleets, size_lists, cap_maps, st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_the_order_of_the_inventory_does_not_matter(
    hosts: dict[str, Mapping[str, str]], sizes: list[Size], caps: dict[str, Fraction], shuffle: random.Random
) -> None:
    shuffled = list(hosts.items())
    shuffle.shuffle(shuffled)
    assert draw(dict(shuffled), sizes, caps) == draw(hosts, sizes, caps)


@given(fleets, st.integers(301, 400), labels)
def test_one_host_more_without_caps_moves_one_host_at_each_border(
    hosts: dict[str, Mapping[str, str]], number: int, added: Mapping[str, str]
) -> None:
    """It goes into its place; whoever it pushes over the end of a wave is the first of the next. Shares of one host
    more may let one more in. The newcomer may take over as the first of its kind, from one host a kind."""
    before = numbers(draw(hosts, caps=NO_CAPS))
    after = numbers(draw({**hosts, f"web{number}": added}, caps=NO_CAPS))
    moved = [name for name, wave in before.items() if after[name] != wave]
    waves = max(after.values()) + 1
    firsts = 3
    assert len(moved) <= 2 * (waves - 1) + firsts
    assert sum(abs(after[name] - before[name]) > 1 for name in moved) <= firsts


def test_one_host_more_moves_few_under_caps_too() -> None:
    """Caps of several labels can pass a place on more than once; how often, 400 small and crowded fleets say."""
    over = []
    for seed in range(400):
        draw_from = random.Random(seed)
        hosts = {f"web{n}": crowded(draw_from) for n in range(draw_from.randint(10, 60))}
        caps = {label: Fraction(draw_from.randint(1, 10), 10) for label in CAPS}
        before = numbers(draw(hosts, caps=caps))
        after = numbers(draw({**hosts, "new": crowded(draw_from)}, caps=caps))
        moved = sum(after[name] != wave for name, wave in before.items())
        over.append(moved > 2 * max(after.values()) + 3)
    assert sum(over) <= 4


def crowded(draw_from: random.Random) -> dict[str, str]:
    return {
        "rack": draw_from.choice(["", "r1", "r2", "r3", "r4"]),
        "nic_model": draw_from.choice(["", "mlx5", "ice"]),
        "kernel": draw_from.choice(["6.1", "6.12"]),
    }


def grown(count: int) -> dict[str, dict[str, str]]:
    """A fleet as they are: racks of twenty, two kernels, three cards, one of them rare."""
    cards = ["mlx5"] * 60 + ["ice"] * 39 + ["bnxt"]
    return {
        f"web{n}": {"rack": f"r{n // 20}", "nic_model": cards[n % 100], "kernel": "6.1" if n % 20 < 6 else "6.12"}
        for n in range(count)
    }


def test_growth_of_a_real_fleet_leaves_the_rest_where_it_is() -> None:
    moved = []
    for count in range(1000, 1100, 5):
        before, after = numbers(draw(grown(count))), numbers(draw(grown(count + 1)))
        moved.append(sum(after[name] != wave for name, wave in before.items()))
    assert mean(moved) <= 5 and max(moved) <= 15


def test_default_waves_of_a_fleet() -> None:
    waves = draw(grown(1000))
    assert [len(wave) for wave in waves][:3] == [1, 50, 250]
    assert len(waves) <= 7


def test_a_tiny_fleet_goes_one_by_one() -> None:
    assert [len(wave) for wave in draw({f"web{n}": {"kernel": "6.12", "nic_model": "ice"} for n in range(3)})] == [
        1
    ] * 3


def test_kinds_are_seen_early() -> None:
    hosts = grown(1000)
    early = {name for wave in draw(hosts)[:2] for name in wave}
    for label in ("nic_model", "kernel"):
        assert {hosts[name][label] for name in early} == {each[label] for each in hosts.values()}


def test_a_rare_kind_is_not_left_for_the_end() -> None:
    hosts = {f"web{n}": {"kernel": "6.12"} for n in range(500)} | {"odd": {"kernel": "6.1"}}
    assert numbers(draw(hosts))["odd"] <= 1


def test_named_canaries_go_first() -> None:
    hosts = grown(100)
    assert draw(hosts, canaries=["web77"])[0] == ["web77"]
    assert set(order(hosts, "salt", ["web9?"])[:10]) == {f"web9{n}" for n in range(10)}


def test_another_salt_draws_other_canaries() -> None:
    hosts = {f"web{n}": {"kernel": "6.12"} for n in range(100)}
    assert len({assign(hosts, [Size(count=1).of], {}, f"salt{n}")[0][0] for n in range(20)}) > 10


def test_unknown_labels_are_not_capped() -> None:
    hosts = {f"web{n}": {"rack": ""} for n in range(9)}
    assert [len(wave) for wave in draw(hosts, [Size(share=Fraction(1))], {"rack": Fraction(1, 3)})] == [9]


def test_a_third_of_nine_is_three() -> None:
    hosts = {f"web{n}": {"rack": "r1"} for n in range(9)}
    assert [len(wave) for wave in draw(hosts, [Size(share=Fraction(1))], {"rack": Fraction(1, 3)})] == [3, 3, 3]


def test_a_rollout_without_an_end_is_refused() -> None:
    hosts: Hosts = {f"web{n}": {} for n in range(MOST_WAVES)}
    assert len(draw(hosts, [Size(count=1)])) == MOST_WAVES
    with pytest.raises(ControlError, match="raise the last of waves, or caps") as caught:
        draw({**hosts, "more": {}}, [Size(count=1)])
    assert caught.value.code == "too_many_waves"
