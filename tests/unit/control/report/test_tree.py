# SPDX-License-Identifier: Apache-2.0
"""The tree on terminals of all sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.text import Text

from ktls_control.rollout.state import fold
from ktls_control.view import tree
from ktls_control.view.tree import View
from tests import journals

from .conftest import Stories

KEYS = Text("[O]FF [q]uit")


def draw(story: journals.Story, width: int = 120, height: int | None = None, **more: object) -> list[str]:
    view = View(fold(story.journal.lines), story.plan, story.journal.at + 7, footer=(KEYS,), **more)  # type: ignore[arg-type]
    return [line.plain for line in tree.lines(view, width, height)]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> journals.Story:
    """Four hundred hosts in ten waves; some of the third are lost."""
    story = journals.begin(tmp_path_factory.mktemp("large"), journals.plan_of([3, 20, 97, *[40] * 7]))
    for number in (1, 2):
        story.open(number)
        story.soak(number, 600, 2)
        story.journal.add("wave_promoted", wave=number)
    wave = story.open(3)
    story.soak(3, 300, 4, cut_off=wave.hosts[5:25])
    return story


@pytest.mark.parametrize("height", [None, 5, 8, 12, 24, 50])
@pytest.mark.parametrize("width", [20, 33, 47, 80, 200])
@pytest.mark.parametrize("name", ["completed", "failed", "soaking"])
def test_it_fits_and_the_keys_stay(stories: Stories, name: str, width: int, height: int | None) -> None:
    for details in (False, True):
        drawn = draw(stories(name), width, height, details=details, alert=["controller not running: ktls resume"])
        assert max(map(len, drawn)) <= width
        assert drawn[-1] == KEYS.plain
        if height is not None:
            assert len(drawn) <= height


def test_what_the_judge_says_so_far_is_shown_until_there_is_a_verdict(tmp_path: Path) -> None:
    story = journals.begin(tmp_path, journals.plan_of([1, 2]))
    story.open(1)
    story.soak(1, 100, 2)
    story.interim(1, 0.62)
    story.soak(1, 100, 2)
    drawn = "\n".join(draw(story, 300, details=True))
    assert "so far: INCONCLUSIVE" in drawn
    assert "E=0.62" in drawn
    assert "cpu: 4 pairs of blocks" in drawn
    story.judge(1)
    drawn = "\n".join(draw(story, 300))
    assert "so far" not in drawn
    assert "PASS" in drawn


@pytest.mark.parametrize("height", [10, 24, 60])
@pytest.mark.parametrize("width", [40, 100])
def test_a_large_fleet_fits_too(large: journals.Story, width: int, height: int) -> None:
    drawn = draw(large, width, height)
    assert len(drawn) <= height
    assert max(map(len, drawn)) <= width
    assert drawn[-1] == KEYS.plain
    assert any("wave 3" in line for line in drawn)


def test_hosts_that_are_not_well_are_named_in_a_large_wave(large: journals.Story) -> None:
    drawn = "\n".join(draw(large, 110))
    assert drawn.count("unreachable 1m") == 8
    assert "12 more that are not well" in drawn
    assert "77 hosts: 77 soaking" in drawn
    named = "\n".join(draw(large, 110, details=True))
    assert named.count("unreachable 1m") == 20


def test_it_says_what_matters(stories: Stories) -> None:
    drawn = "\n".join(draw(stories("soaking"), 130))
    assert "epoch 42  phase tx  wave 2/3  ◔ soaking 5m37s/10m00s  lease 14:23" in drawn
    assert "CPU/byte -17.5% [-20.5,-14.5]" in drawn
    assert "errors E=0.75 (aborts at 40)" in drawn
    assert "still needs 4m23s" in drawn
    assert "⚠ web-08  unreachable 2m19s · reverts by itself in" in drawn
    assert "5/6 soaking" in drawn


def test_failures_stay_in_sight(stories: Stories) -> None:
    drawn = "\n".join(draw(stories("failed"), 150, details=True))
    assert "✘ ktls epoch 42  phase tx  failed  after 35m00s" in drawn
    assert "latency +21.0% [+18.3,+23.7] ✘" in drawn
    assert "EBADMSG +31" in drawn
    assert "failure budget 1/1" in drawn


def test_a_run_without_plan_or_waves_is_drawn(stories: Stories, tmp_path: Path) -> None:
    state = fold(stories("soaking").journal.lines)
    assert tree.lines(View(state, None, state.last), 80)
    assert tree.lines(View(fold([]), None, 0.0), 80, 10)


@pytest.mark.parametrize("name", ["completed", "failed", "soaking"])
def test_every_beginning_of_a_run_is_drawn(stories: Stories, name: str) -> None:
    """A view may look at any moment."""
    story = stories(name)
    for end in range(len(story.journal.lines) + 1):
        state = fold(story.journal.lines[:end])
        drawn = tree.lines(View(state, story.plan, state.last + 1, footer=(KEYS,), details=True), 90, 24)
        assert drawn[-1].plain == KEYS.plain
