# SPDX-License-Identifier: Apache-2.0
"""Larger fleets of the same kind, by the same policy."""

from __future__ import annotations

import numpy as np
import pytest

from ktls_control.errors import ControlError
from ktls_control.simulate.fleet import affected, build, sizes
from ktls_control.simulate.regression import parse

from .plans import plan


def test_a_canary_stays_a_number_and_other_waves_stay_shares() -> None:
    assert sizes([1, 9, 30, 60], 100) == [1, 9, 30, 60]
    scaled = sizes([1, 9, 30, 60], 50_000)
    assert scaled[0] == 1
    assert sum(scaled) == 50_000
    assert np.allclose(np.array(scaled[1:]) / 49_999, np.array([9, 30, 60]) / 99, atol=1e-4)


def test_a_first_wave_that_is_no_canary_is_a_share_too() -> None:
    assert sizes([50, 50], 1000) == [500, 500]
    assert sizes([7], 1000) == [1000]


def test_smaller_fleets_keep_every_wave() -> None:
    scaled = sizes([1, 5, 25, 69], 10)
    assert sum(scaled) == 10
    assert min(scaled) >= 1


def test_labels_keep_their_shares_in_every_wave() -> None:
    fleet = build(plan(), 50_000)
    small = build(plan())
    hit = affected(fleet, parse("cpu +8% on nic_model=X"), np.random.default_rng(1))
    before = affected(small, parse("cpu +8% on nic_model=X"), np.random.default_rng(1))
    for wave in range(1, fleet.waves):
        assert hit[fleet.members(wave)].mean() == pytest.approx(before[small.members(wave)].mean(), abs=0.01)
    assert before.sum() == 20


def test_hosts_that_no_label_names_are_drawn() -> None:
    fleet = build(plan(), 1000)
    rng = np.random.default_rng(1)
    assert affected(fleet, parse("cpu +8% on 30 hosts"), rng).sum() == 30
    assert affected(fleet, parse("cpu +8% on 5% of hosts"), rng).sum() == 50
    assert affected(fleet, parse("cpu +8%"), rng).all()


def test_a_label_that_nobody_has_names_those_that_there_are() -> None:
    with pytest.raises(ControlError, match=r"no host of the plan has nic_model=Z; the plan knows X, Y") as caught:
        affected(build(plan()), parse("cpu +8% on nic_model=Z"), np.random.default_rng(1))
    assert caught.value.code == "nobody"


@pytest.mark.parametrize(("hosts", "text"), [(100, "cpu +8% on 101 hosts")])
def test_more_hosts_than_there_are(hosts: int, text: str) -> None:
    with pytest.raises(ControlError) as caught:
        affected(build(plan(), hosts), parse(text), np.random.default_rng(1))
    assert caught.value.code == "bad_hosts"


def test_fewer_hosts_than_waves() -> None:
    with pytest.raises(ControlError) as caught:
        build(plan(), 3)
    assert caught.value.code == "bad_hosts"
