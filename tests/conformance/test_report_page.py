# SPDX-License-Identifier: Apache-2.0
"""The report of a rollout in a real browser: it is drawn, complains of nothing and asks nobody for anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktls_control.report_run import write_report
from tests import journals

from .page import look


@pytest.mark.parametrize(("name", "dark"), [("completed", False), ("failed", True)])
def test_the_report(name: str, dark: bool, tmp_path: Path) -> None:
    story = getattr(journals, name)(tmp_path / "state")
    page = write_report(story.run_dir, tmp_path / "report.html", now=story.journal.at + 60)
    seen = look(page, tmp_path / "home", dark=dark)
    assert (seen.width, seen.height) == (1200, 2400)
    assert seen.colours > 400, "the picture is all but blank"
    assert seen.console == []
    assert seen.requests == []


def test_a_page_that_is_not_like_that_is_noticed(tmp_path: Path) -> None:
    """Else the test above could not fail."""
    page = tmp_path / "page.html"
    page.write_text(
        '<!doctype html><body style="background:#fff"><img src="http://127.0.0.1:9/x.png">'
        "<script>console.error('no'); fetch('https://127.0.0.1:9/y')</script>"
    )
    seen = look(page, tmp_path / "home")
    assert seen.colours < 50
    assert any("no" in line for line in seen.console)
    assert any("127.0.0.1:9/x.png" in url for url in seen.requests)
    assert any("127.0.0.1:9/y" in url for url in seen.requests)
