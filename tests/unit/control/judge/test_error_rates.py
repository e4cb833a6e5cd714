# SPDX-License-Identifier: Apache-2.0
"""How often the judge is wrong: a small part of ``python -m ktls_control.judge.calibrate``, with its seeds fixed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binom

from ktls_control.judge import calibrate, errors, record, regimes, trial
from ktls_control.judge.regimes import REGIMES, Harm

FIXTURES = Path(__file__).parents[3] / "fixtures" / "judge"
ALLOWED = 0.06
FLEETS = {"1 host, switchback": 150, "4 hosts, switchback": 40, "4 hosts against 12, difference": 40}


@pytest.mark.parametrize("regime", REGIMES)
def test_nothing_wrong_seldom_stops_a_wave(regime: str) -> None:
    counts = [
        trial.once(calibrate.SHAPES[shape], REGIMES[regime], Harm(), fleets, 11) for shape, fleets in FLEETS.items()
    ]
    both = counts[0].merged(counts[1]).merged(counts[2])
    assert trial.upper(both.failed, both.total) <= ALLOWED
    for metric, values in counts[0].p.items():
        assert trial.uniform(values) > 0.001, metric


def test_watching_all_the_time_does_not_raise_false_alarms() -> None:
    fleet = replace(calibrate.LONG["4 hosts, switchback"], baseline_s=300.0)
    count = trial.watched(fleet, REGIMES["bursty failures"], Harm(), 70, 12, 600.0)
    assert trial.upper(count.failed, count.total) <= ALLOWED
    assert count.passed > 0.8 * count.total


@pytest.mark.parametrize("failing", ["bursts, and hosts differ", "bursts of 10 minutes, and hosts differ"])
def test_bursts_of_failures_seldom_stop_a_wave_in_hours(failing: str) -> None:
    fleet = calibrate.WATCHED["2 hosts, 8 of later waves"]
    count = trial.failures(fleet, regimes.FAILING[failing], Harm(), 150, 17)
    assert trial.upper(count.failed, count.total) <= ALLOWED
    assert trial.failures(fleet, regimes.FAILING[failing], Harm(failures=0.001), 10, 18).failed == 10


@pytest.mark.parametrize("recording", sorted(FIXTURES.glob("*.json")), ids=lambda path: path.stem)
def test_recorded_baselines_dealt_anew_seldom_stop_a_wave(recording: Path) -> None:
    count = trial.resplit(list(record.load(recording).series), 10.0, 0.0, 1000, 13)
    assert count.total == 1000
    assert trial.upper(count.failed, count.total) <= ALLOWED


@pytest.mark.parametrize(
    ("shape", "harm", "least"),
    [
        ("1 host, switchback", Harm(cpu=1.05), 0.9),
        ("1 host, switchback", Harm(cpu=1.10), 1.0),
        ("4 hosts, switchback", Harm(latency=1.10), 0.9),
        ("4 hosts, switchback", Harm(failures=0.001), 0.9),
        ("4 hosts against 12, difference", Harm(cpu=1.05), 0.9),
        ("4 hosts against 12, difference", Harm(failures=0.001), 0.9),
    ],
    ids=str,
)
def test_harm_is_found(shape: str, harm: Harm, least: float) -> None:
    count = trial.once(calibrate.SHAPES[shape], REGIMES["clean"], harm, 40, 14)
    assert count.failed >= least * count.total
    assert count.passed == 0


@pytest.mark.parametrize("shape", calibrate.SHAPES)
def test_harm_of_the_margin_seldom_passes(shape: str) -> None:
    count = trial.once(calibrate.SHAPES[shape], REGIMES["clean"], Harm(cpu=1.03), 80, 15)
    # Promotion of such harm is an error of rate alpha: more of them than that explains would show here.
    assert binom.sf(count.passed - 1, count.total, 0.05) > 0.01


def test_harm_below_the_margin_seldom_fails_by_the_worst_host() -> None:
    count = trial.once(calibrate.SHAPES["4 hosts, switchback"], REGIMES["clean"], Harm(cpu=1.02), 80, 19)
    assert trial.upper(count.failed, count.total) <= ALLOWED


@pytest.mark.parametrize("regime", ["clean", "all at once"])
def test_what_a_plan_calls_detectable_is_detected(regime: str) -> None:
    effect, stopped = calibrate.kept(REGIMES[regime], calibrate.SHAPES["4 hosts, switchback"], "cpu", 40)
    assert effect is not None and stopped is not None
    assert 0.03 < effect < 0.2
    assert stopped >= 0.6


def test_the_e_value_is_a_fair_bet() -> None:
    # Mean of exp(log_e) over the null is one: what a bettor starts with.
    import numpy as np

    for null in (0.05, 0.5, 0.8):
        hits = np.arange(0, 31)
        mean = float((np.exp(errors.log_e(hits, np.full(31, 30), null)) * binom.pmf(hits, 30, null)).sum())
        assert mean == pytest.approx(1.0, abs=1e-6)


def test_the_judge_notices_a_broken_draw() -> None:
    """The other side of the false-alarm test: noise that goes with the arm is harm, and is called so."""
    count = trial.once(calibrate.SHAPES["4 hosts, switchback"], regimes.Noise(), Harm(cpu=1.2, latency=1.2), 20, 16)
    assert count.failed == 20
