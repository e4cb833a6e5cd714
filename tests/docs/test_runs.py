# SPDX-License-Identifier: Apache-2.0
"""Every block of commands that is not marked otherwise does what its page says, page by page."""

from __future__ import annotations

from pathlib import Path

import pytest

from .pages import blocks, pages
from .session import session

RUN = [page for page in pages() if any(block.run for block in blocks(page))]


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_the_commands_of_a_page(page: Path, tmp_path: Path) -> None:
    with session(tmp_path) as here:
        for block in blocks(page):
            if block.run:
                assert here.run(block) == []


def test_the_quick_start_is_run() -> None:
    (page,) = (page for page in RUN if page.name == "quickstart.md")
    run = " ".join(block.text for block in blocks(page) if block.run)
    for verb in ("preflight", "plan", "apply", "status", "off", "report"):
        assert f"ktls {verb}" in run
