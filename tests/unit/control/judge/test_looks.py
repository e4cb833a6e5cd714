# SPDX-License-Identifier: Apache-2.0
"""Looks: their times follow from the plan alone, and together they spend what one test may."""

from __future__ import annotations

import numpy as np
import pytest

from ktls_control.judge import looks
from ktls_control.plan.model import Gates, Soak


@pytest.mark.parametrize(("least", "most"), [(600, 600), (600, 900), (600, 1800), (600, 7200)])
def test_looks_together_keep_alpha(least: float, most: float) -> None:
    plan = looks.schedule(Gates(), Soak(least, most), 1)
    times = [plan.following(0.0)]
    while times[-1] < 20 * most:
        times.append(plan.following(times[-1]))
    assert any(abs(at - most) < 1 for at in times)
    rng = np.random.default_rng(1)
    steps = rng.normal(size=(20_000, len(times))) * np.sqrt(np.diff([0.0, *times]))
    scores = np.cumsum(steps, axis=1) / np.sqrt(times)
    from scipy.special import ndtri

    dues = [plan.due(at) for at in times]
    levels = [look.level(0.05) for look in dues if look is not None]
    crossed = (scores > -ndtri(levels)).any(axis=1).mean()
    assert 0.035 < crossed < 0.053


def test_between_looks_nothing_is_due_anew() -> None:
    plan = looks.schedule(Gates(), Soak(600, 1800), 1)
    assert plan.due(100) is None
    early, main = plan.due(300), plan.due(600)
    assert early is not None and (early.number, early.at_s) == (-1, 300)
    assert main is not None and (main.number, main.at_s) == (0, 600)
    assert plan.due(599) == main, "the last sample may lag"
    assert plan.due(700) == main
    last = plan.due(1800)
    assert last is not None and last.at_s == pytest.approx(1800)
    assert plan.following(700) == pytest.approx(600 * 3 ** (1 / 3))


def test_a_switchback_waits_until_its_pairs_can_show_something() -> None:
    one = looks.schedule(Gates(), Soak(60, 3600), 1)
    assert one.main_s >= 60 * looks.pairs_needed(0.05, 1)
    assert looks.schedule(Gates(), Soak(60, 3600), 30).main_s == 60
    assert looks.schedule(Gates(), Soak(60, 90), 1).main_s == 90
    assert looks.schedule(Gates(method="difference"), Soak(60, 3600), 1).main_s == 60


@pytest.mark.parametrize("soak", [Soak(0, 0), Soak(1e-9, 1e-9), Soak(600, 10), Soak(1, 1e9)])
def test_odd_soaks_have_looks_too(soak: Soak) -> None:
    for gates in (Gates(), Gates(method="difference")):
        plan = looks.schedule(gates, soak, 3)
        for elapsed in (0.0, 1.0, 1e3, 1e7):
            look = plan.due(elapsed)
            assert look is None or 0 < look.level(0.05) <= 0.05
            assert plan.following(elapsed) > 0
