# SPDX-License-Identifier: Apache-2.0
"""Predictions beside real rollouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktls_control.errors import ControlError
from ktls_control.simulate.cli import journal as journal_of
from ktls_control.simulate.compare import compare
from ktls_control.simulate.pace import Pace, fit
from ktls_control.simulate.phases import read

from .plans import journal, plan


def test_parts_of_each_wave_are_set_side_by_side() -> None:
    of = plan((1, 4))
    pace = Pace(order_s=3.0, evidence_s=1.0, confirm_s=2.0, wave_s=2.0, forks=25)
    found = compare(of, journal(of, order_s=5.0, judge_s=1.0, confirm_s=2.0), pace)
    assert [wave.hosts for wave in found.waves] == [1, 4]
    for wave in found.waves:
        assert wave.ordering == (5.0, 5.0)
        assert wave.soaking == (600, 600)
        assert wave.judging == (1.0, 1.0)
        assert wave.confirming == (2.0, 2.0)
    # A person's 500 seconds are on neither side.
    assert found.real_s == pytest.approx(2 * 608)
    assert found.off_by == pytest.approx(0.0)


def test_a_wave_that_failed_is_compared_as_far_as_it_came() -> None:
    of = plan((1, 4))
    found = compare(of, journal(of, order_s=5, judge_s=1, confirm_s=2, ends_in=2), Pace())
    assert found.waves[1].confirming[1] is None
    assert found.waves[1].real_s == pytest.approx(606)
    assert (
        found.waves[1].predicted_s
        < compare(of, journal(of, order_s=5, judge_s=1, confirm_s=2), Pace()).waves[1].predicted_s
    )


def test_a_soak_that_was_paused_and_went_on_longer() -> None:
    events = [
        {"event": "run_started", "at": 0, "waves": [{"number": 1, "name": "canary"}]},
        {"event": "wave_opened", "at": 0, "wave": 1, "hosts": ["a"]},
        {"event": "soak_started", "at": 5, "wave": 1, "min_s": 600, "max_s": 1200},
        {"event": "observed", "at": 305, "wave": 1},
        {"event": "waiting", "at": 305, "wave": 1, "on": "paused"},
        {"event": "waited", "at": 1305, "wave": 1, "on": "paused"},
        {"event": "observed", "at": 1800, "wave": 1},
        {"event": "observed", "at": 1905, "wave": 1},
        {"event": "observed", "at": 1912, "wave": 1},
        {"event": "verdict", "at": 1915, "wave": 1, "outcome": "pass"},
    ]
    (wave,) = read(events)
    assert (wave.ordering_s, wave.soaking_s, wave.judging_s, wave.waiting_s) == (5, 900, 10, 1000)


def test_a_pace_that_was_fitted_predicts_the_next_run() -> None:
    of, other = plan((1, 4)), plan((2, 30))
    seen = read(journal(of, order_s=42.0, judge_s=7.0, confirm_s=9.0))
    pace = fit(Pace(controller_s=0.0), seen)
    found = compare(other, journal(other, order_s=42.0, judge_s=7.0, confirm_s=9.0), pace)
    assert found.waves[0].off_by == pytest.approx(0.0, abs=1e-6)
    # Thirty hosts are two rounds of 25 forks.
    assert found.waves[1].ordering[0] == pytest.approx(2 + 2 * 40)


def test_a_journal_of_another_plan_is_refused() -> None:
    with pytest.raises(ControlError) as caught:
        compare(plan((1, 4)), journal(plan((1, 5)), order_s=5, judge_s=1, confirm_s=2), Pace())
    assert caught.value.code == "other_plan"


def test_the_control_node_is_the_limit_of_large_waves_and_slices_share_it() -> None:
    pace = Pace(order_s=1.0, controller_s=0.1, wave_s=0.0, forks=1000)
    assert pace.ordering_s(10) == pytest.approx(1.0)
    assert pace.ordering_s(10_000) == pytest.approx(1000.0)
    assert Pace(order_s=1.0, controller_s=0.1, wave_s=0.0, forks=1000, slices=10).ordering_s(10_000) == pytest.approx(
        100.0
    )


def test_a_journal_that_an_engine_wrote_is_read() -> None:
    """Recorded: eight fake hosts in three waves, two seconds of soak, on a machine under load."""
    seen = read(journal_of(Path(__file__).parents[3] / "fixtures/control/rollout-journal.jsonl"))
    assert [(wave.hosts, wave.promoted) for wave in seen] == [(1, True), (4, True), (3, True)]
    for wave in seen:
        assert wave.soaking_s == pytest.approx(2.0, abs=0.2)
        assert 1 < wave.ordering_s < 6
        assert 1 < (wave.judging_s or 0) < 8
        assert 1 < (wave.confirming_s or 0) < 6
    pace = fit(Pace(), seen)
    assert 1 < pace.order_s < 4
