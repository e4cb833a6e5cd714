# SPDX-License-Identifier: Apache-2.0
"""Load on flag endpoints."""

from __future__ import annotations

import numpy as np
import pytest

from ktls_agent.pull import pace
from ktls_control.simulate import flags


def test_it_polls_as_agents_do() -> None:
    assert (flags.JITTER, flags.BACKOFF_MAX_S) == (pace.JITTER, pace.BACKOFF_MAX_S)
    for failures in range(14):
        for chance in (0.0, 0.3, 1.0):
            ours = flags._next(2.0, np.array([failures]), np.array([chance]))[0]
            assert ours == pytest.approx(pace.next_s(2.0, failures, chance))


def test_hosts_by_seconds_between_polls() -> None:
    load = flags.load(10_000, 2.0, np.random.default_rng(1))
    assert load.mean == pytest.approx(5_000, rel=0.01)
    assert load.peak < 6_500
    assert flags.load(10_000, 5.0, np.random.default_rng(1)).mean == pytest.approx(2_000, rel=0.02)


def test_an_endpoint_that_comes_back_is_not_overrun() -> None:
    load = flags.load(10_000, 2.0, np.random.default_rng(1), outage_s=600)
    assert load.returned[0] < 1_500, "agents had backed off"
    assert load.returned.max() < 6_000
    # Everybody is there again when the longest pause is over.
    assert load.returned[22:].mean() == pytest.approx(5_000, rel=0.02)
