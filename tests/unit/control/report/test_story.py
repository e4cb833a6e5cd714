# SPDX-License-Identifier: Apache-2.0
"""How the time of a rollout was spent."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from ktls_control.view.story import tell
from tests import journals

from .conftest import Stories


def test_each_second_of_a_wave_is_counted_once(stories: Stories) -> None:
    for name in ("completed", "failed"):
        told = tell(stories(name).journal.lines)
        for wave in {span.wave for span in told.spans}:
            mine = [span for span in told.spans if span.wave == wave]
            for before, after in pairwise(mine):
                assert before.end == after.start
                assert before.kind != after.kind


def test_waits_of_people_are_apart_from_a_dead_controller(stories: Stories) -> None:
    told = tell(stories("failed").journal.lines)
    spent = told.seconds(2, told.end)
    assert spent["paused"] == pytest.approx(171)
    assert spent["absent"] == pytest.approx(140)
    assert told.rollbacks == {2: pytest.approx(3.4)}
    assert [point.kind for point in told.points if point.wave is None] == [
        "promote", "pause", "resume", "absent", "resumed", "ended",
    ]  # fmt: skip


def test_a_gate_that_cannot_tell_lets_the_soak_go_on(stories: Stories) -> None:
    told = tell(stories("failed").journal.lines)
    judged = [span for span in told.spans if (span.wave, span.kind) == (2, "judged")]
    assert len(judged) == 1


def test_what_goes_on_has_no_end(stories: Stories) -> None:
    told = tell(stories("soaking").journal.lines)
    assert told.spans[-1].end is None
    assert told.seconds(2, told.end + 100)["soaking"] == pytest.approx(430)


def test_webhooks_after_the_end_do_not_lengthen_it(tmp_path: Path) -> None:
    story = journals.begin(tmp_path)
    story.open(1)
    story.end("aborted")
    end = story.journal.at
    story.journal.add("notified", after=9, trigger="rollout_aborted", ok=True)
    told = tell(story.journal.lines)
    assert (told.ended, told.end) == (True, end)
    assert told.spans[-1].end == end


def test_a_run_that_had_ended_was_not_abandoned(tmp_path: Path) -> None:
    story = journals.begin(tmp_path)
    story.open(1)
    story.end("failed")
    story.journal.add("run_resumed", after=3600, operator="ada", epoch=43)
    story.open(1, attempt=2)
    told = tell(story.journal.lines)
    assert "absent" not in told.seconds(1, told.end)
    assert not told.ended
