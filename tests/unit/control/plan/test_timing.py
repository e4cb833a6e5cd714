# SPDX-License-Identifier: Apache-2.0
"""How long waves take, and that an order never ends before it can be confirmed."""

from __future__ import annotations

import configparser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.orders import LEASE_MAX_S as AGENT_LEASE_MAX_S
from ktls_control.errors import ControlError
from ktls_control.judge.model import HostSeries, Sample
from ktls_control.plan.model import Soak
from ktls_control.plan.timing import FORKS, LEASE_MAX_S, Traffic, expected_s, lease_s, soak_s, task_s, traffic
from ktls_control.request import LEASE_MARGIN_S

SOAK = Soak(600.0, 1800.0)


def test_constants_are_those_of_others() -> None:
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[4] / "ansible.cfg")
    assert config.getint("defaults", "forks") == FORKS
    assert LEASE_MAX_S == AGENT_LEASE_MAX_S


def test_a_wave_of_many_hosts_takes_longer_than_one_of_few() -> None:
    assert task_s(25, 2.0) == 2.0 and task_s(26, 2.0) == 4.0
    assert expected_s(SOAK, 26, 2.0, Traffic()) == 612.0


@pytest.mark.parametrize(
    ("soak", "seen", "takes"),
    [
        (SOAK, Traffic(), 600.0),
        (SOAK, Traffic(bytes_s=10_000.0), 600.0),
        (SOAK, Traffic(bytes_s=1_000.0), 1000.0),
        (SOAK, Traffic(bytes_s=0.0), 1800.0),
        (Soak(600.0, 1800.0, 14_000, 0), Traffic(0.0, 2.0), 700.0),
        (Soak(600.0, 1800.0, 10, 0), Traffic(0.0, 0.0), 1800.0),
        (Soak(600.0, 1800.0, 0, 0), Traffic(0.0, 0.0), 600.0),
    ],
)
def test_a_soak_waits_for_traffic(soak: Soak, seen: Traffic, takes: float) -> None:
    assert soak_s(soak, 10, seen) == takes


def test_traffic_is_that_of_the_median_host() -> None:
    series = [HostSeries(str(rate), (Sample(10.0, 10.0, sent=rate * 10),)) for rate in (1, 5, 100)]
    assert traffic(series) == Traffic(5.0, None)
    assert traffic([]) == Traffic()


@given(st.lists(st.tuples(st.integers(1, 5000), st.floats(0, 20_000)), min_size=1, max_size=5), st.floats(0.1, 5))
def test_no_order_ends_before_its_wave(waves: list[tuple[int, float]], host_s: float) -> None:
    lease = lease_s([(hosts, Soak(0.0, longest)) for hosts, longest in waves], host_s, None)
    assert all(lease >= 3 * task_s(hosts, host_s) + longest + LEASE_MARGIN_S for hosts, longest in waves)
    assert lease % 10 == 0


def test_a_lease_that_is_asked_for() -> None:
    assert lease_s([(1, SOAK)], 1.5, 4000.0) == 4000.0
    with pytest.raises(ControlError, match="hosts would revert meanwhile") as caught:
        lease_s([(1, SOAK)], 1.5, 1800.0)
    assert caught.value.code == "short_lease"


def test_a_lease_that_no_agent_takes() -> None:
    with pytest.raises(ControlError) as caught:
        lease_s([(1, Soak(0.0, 86400.0))], 1.5, None)
    assert caught.value.code == "long_lease"
