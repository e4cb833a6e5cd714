# SPDX-License-Identifier: Apache-2.0
"""Metrics of a rollout, as promtool sees them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ktls_control.view.textfile import RolloutMetrics, file_name
from tests import journals


@pytest.mark.parametrize("name", ["completed", "failed", "soaking"])
def test_promtool_finds_nothing_to_complain_of(name: str, tmp_path: Path) -> None:
    story = getattr(journals, name)(tmp_path / "state")
    metrics = RolloutMetrics(tmp_path, story.plan)
    for event in story.journal.lines:
        metrics.feed(event)
    text = (tmp_path / file_name(story.plan.fleet)).read_text()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
