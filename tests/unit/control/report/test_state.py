# SPDX-License-Identifier: Apache-2.0
"""What views read out of the state at the edges of a run's life."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktls_control.plan.model import Soak
from ktls_control.rollout.state import fold
from ktls_control.view import standing
from tests import journals

from .conftest import Stories


def test_a_wave_that_waited_goes_on_with_what_it_did(tmp_path: Path) -> None:
    story = journals.begin(tmp_path)
    story.open(1)
    story.wait(1, "paused", 30)
    wave = fold(story.journal.lines).wave(1)
    assert (wave.state, wave.waiting) == ("soaking", None)
    story.judge(1)
    story.journal.add("waiting", wave=1, on="approval")
    assert fold(story.journal.lines).wave(1).state == "held"
    story.journal.add("waiting", wave=1, on="paused")
    story.journal.add("waited", wave=1, on="paused")
    assert fold(story.journal.lines).wave(1).state == "judged"


def test_a_freeze_before_a_wave_leaves_it_waiting(tmp_path: Path) -> None:
    story = journals.begin(tmp_path)
    story.wait(1, "freeze", 60, until=story.journal.at + 60)
    assert fold(story.journal.lines).wave(1).state == "waiting"


def test_a_lost_host_keeps_its_lease_and_says_since_when(tmp_path: Path) -> None:
    story = journals.begin(tmp_path)
    wave = story.open(2)
    host = wave.hosts[0]
    story.journal.at += 60
    story.observe(2, 60)
    seen_at = story.journal.at
    for _look in range(3):
        story.journal.at += 20
        story.observe(2, 120, cut_off=(host,))
    state = fold(story.journal.lines).wave(2).hosts[host]
    assert state.lost == seen_at + 20
    assert standing.lease_left(state, seen_at + 60) == pytest.approx(journals.LEASE_S - 60 - 60)
    assert standing.lease_left(state, seen_at + 10_000) == 0
    story.observe(2, 180)
    assert fold(story.journal.lines).wave(2).hosts[host].lost is None


def test_a_host_that_was_cut_off_while_it_was_ordered_may_hold_the_order(tmp_path: Path) -> None:
    story = journals.begin(tmp_path)
    story.open(1, failing={"web-01": "cut_off", "web-02": "no_module"})
    hosts = fold(story.journal.lines).wave(1).hosts
    assert hosts["web-01"].state == "unreachable"
    assert hosts["web-01"].lease_until is not None
    assert (hosts["web-02"].state, hosts["web-02"].lease_until) == ("failed", None)


def test_confirmed_and_reverted_hosts_have_no_lease(stories: Stories) -> None:
    state = fold(stories("failed").journal.lines)
    for wave in state.waves:
        for host in wave.hosts.values():
            assert (host.lease_until is not None) == (host.state == "unreachable")


@pytest.mark.parametrize(
    ("story", "cut", "gone", "code"),
    [
        ("completed", None, False, standing.COMPLETED),
        ("failed", None, False, standing.FAILED),
        ("soaking", None, False, standing.RUNNING),
        ("soaking", None, True, standing.GONE),
        ("completed", "waiting", False, standing.WAITING),
        ("failed", "pause", False, standing.WAITING),
        ("completed", "run_started", False, standing.RUNNING),
    ],
)
def test_exit_codes(stories: Stories, story: str, cut: str | None, gone: bool, code: int) -> None:
    events = stories(story).journal.lines
    if cut:
        last = next(i for i, event in enumerate(events) if cut in (event["event"], event.get("verb")))
        events = events[: last + 1]
    assert standing.exit_code(fold(events), gone) == code


def test_a_freeze_is_no_work_for_a_person(tmp_path: Path) -> None:
    story = journals.begin(tmp_path)
    story.journal.add("waiting", wave=1, on="freeze", until=story.journal.at + 60)
    assert standing.exit_code(fold(story.journal.lines), False) == standing.RUNNING


def test_who_is_gone_and_who_is_only_quiet(stories: Stories) -> None:
    state = fold(stories("soaking").journal.lines)
    assert standing.alive(state, state.last + 5, False) == standing.Alive()
    assert "ktls resume" in str(standing.alive(state, state.last + 30, False).gone)
    assert standing.alive(state, state.last + 30, True) == standing.Alive()
    quiet = standing.alive(state, state.last + 300, True, "ada (pid 7)")
    assert (quiet.gone, quiet.quiet) == (None, "no event for 5m00s; the lock is held by ada (pid 7)")
    assert "ktls resume" in str(standing.alive(state, state.last + 300, None).quiet)
    ended = fold(stories("completed").journal.lines)
    assert standing.alive(ended, ended.last + 1e6, False) == standing.Alive()


def test_what_a_soak_still_needs(stories: Stories) -> None:
    story = stories("soaking")
    wave, planned = fold(story.journal.lines).wave(2), story.plan.waves[1]
    now = story.journal.at
    assert standing.needs(wave, planned, now)[0] == "4m30s"
    assert standing.needs(wave, None, now + 600) == []
    much = Soak(600, 1800, min_connections=10**7, min_bytes=10**12)
    wanted = standing.needs(wave, type(planned)(2, "w", planned.hosts, much), now + 600)
    assert wanted[0].endswith("M connections")
    assert wanted[1].endswith("on 6 hosts")
    assert standing.needs(fold(story.journal.lines).wave(1), story.plan.waves[0], now) == []


def test_what_a_host_complained_of_is_over_when_it_is_back(tmp_path: Path) -> None:
    story = journals.begin(tmp_path)
    host = story.open(1).hosts[0]
    story.observe(1, 60, cut_off=(host,))
    assert standing.unwell(fold(story.journal.lines).wave(1).hosts[host])
    story.revert(1, "aborted")
    assert not standing.unwell(fold(story.journal.lines).wave(1).hosts[host])
