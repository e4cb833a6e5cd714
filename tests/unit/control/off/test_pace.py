# SPDX-License-Identifier: Apache-2.0
"""Who waits for whom in an off: hosts that are cut off hold nobody up, a slow control node is not hurried."""

from __future__ import annotations

import pytest

from ktls_control.off.pace import FIRST, LEAST, WELL_S, Pace


def fill(pace: Pace, now: float, prefix: str = "h", most: int = 10_000) -> list[str]:
    asked: list[str] = []
    while len(asked) < most and pace.room(now):
        asked.append(f"{prefix}{len(asked)}")
        pace.asked(asked[-1], now)
    return asked


def test_it_begins_with_few_and_doubles_with_each_round_of_answers() -> None:
    pace = Pace(96, 400)
    first = fill(pace, 0.0)
    assert len(first) == FIRST
    for name in first:
        pace.answered(name, 0.3)
    assert len(fill(pace, 0.3, "second")) == 2 * FIRST


def test_never_more_than_the_most() -> None:
    pace = Pace(96, 400)
    for number in range(1000):
        pace.asked(f"n{number}", 0.0)
        pace.answered(f"n{number}", 0.1)
    assert len(fill(pace, 1.0)) == 96


def test_who_is_cut_off_holds_a_place_for_two_seconds_not_for_its_time_limit() -> None:
    pace = Pace(4, 400)
    for number in range(4):
        pace.asked(f"w{number}", 0.0)
        pace.answered(f"w{number}", 0.2)
    assert len(fill(pace, 1.0, "dead")) == 4
    assert not pace.room(1.0 + WELL_S - 0.1)
    assert len(fill(pace, 1.0 + WELL_S, "next")) == 4


def test_but_there_is_an_end_to_those_who_do_not_answer() -> None:
    pace = Pace(4, 10)
    for second in range(0, 100, 5):
        fill(pace, float(second), f"dead{second}-")
    assert pace.holding <= 4
    assert not pace.room(1000.0)
    pace.gone("dead0-0")
    assert pace.room(1000.0)


def test_where_all_answers_are_late_fewer_are_asked_at_a_time_and_each_is_waited_for() -> None:
    pace = Pace(96, 400)
    for number in range(200):
        pace.asked(f"s{number}", 0.0)
        pace.answered(f"s{number}", 16.0)
    assert pace.mean_s == pytest.approx(16.0)
    asked = fill(pace, 100.0)
    assert len(asked) == 96 * WELL_S / 16.0
    assert not pace.room(160.0), "64 s are what patience is here"


def test_it_never_stands_still() -> None:
    pace = Pace(96, 400)
    pace.asked("one", 0.0)
    pace.answered("one", 1e6)
    assert len(fill(pace, 0.0)) == LEAST
    assert len(fill(Pace(1, 400), 0.0)) == 1


@pytest.mark.parametrize(("cores", "cost_s"), [(2, 0.25), (2, 0.5), (1, 0.4)])
def test_a_machine_that_is_too_slow_for_all_of_them_still_reaches_all_in_time(cores: int, cost_s: float) -> None:
    """Hosts that share ``cores`` CPUs with the control node: each takes longer the more are asked."""
    pace, waiting = Pace(96, 400), 400
    now, worst = 0.0, 0.0
    work: dict[str, float] = {}
    since: dict[str, float] = {}
    while waiting or work:
        while waiting and pace.room(now):
            waiting -= 1
            name = f"h{waiting}"
            work[name], since[name] = cost_s, now
            pace.asked(name, now)
        step = 0.05
        now += step
        share = step * cores / max(len(work), cores)
        for name in list(work):
            work[name] -= share
            if work[name] <= 0:
                took = now - since[name]
                worst = max(worst, took)
                pace.answered(name, took)
                del work[name]
    assert worst < 25.0, worst
    assert now < 1.2 * 400 * cost_s / cores + 5
