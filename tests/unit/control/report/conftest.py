# SPDX-License-Identifier: Apache-2.0
"""Runs to look at: made once, copied where a test changes them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ktls_control.rollout.store import Run
from tests import journals

Stories = Callable[[str], journals.Story]


@pytest.fixture(scope="session")
def stories(tmp_path_factory: pytest.TempPathFactory) -> Stories:
    made: dict[str, journals.Story] = {}

    def get(name: str) -> journals.Story:
        if name not in made:
            made[name] = getattr(journals, name)(tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.fixture
def run_of(stories: Stories, tmp_path: Path) -> Callable[[str], Run]:
    """A copy of the run of a story, below a state directory of the test."""

    def copy(name: str) -> Run:
        story = stories(name)
        place = tmp_path / "state" / journals.FLEET / "runs" / story.run_dir.name
        shutil.copytree(story.run_dir, place)
        return Run(place)

    return copy


def lines(run: Run) -> list[dict[str, object]]:
    return [json.loads(line) for line in run.journal.read_text().splitlines()]
