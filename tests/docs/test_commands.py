# SPDX-License-Identifier: Apache-2.0
"""Every command line in every page, wherever it stands: verbs, options, playbooks, variables, modules, files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from . import grammar
from .lines import OURS, commands
from .pages import Block, blocks, pages


def told(page: Path) -> list[str]:
    """What is wrong on a page."""
    wrong = []
    for block in blocks(page):
        for command in commands(block):
            wrong += [f"{command}: {fault}" for fault in grammar.faults(command)]
    return wrong


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_command_line_can_be_typed(page: Path) -> None:
    assert told(page) == []


def test_enough_was_looked_at() -> None:
    seen = [command for page in pages() for block in blocks(page) for command in commands(block)]
    assert len(seen) > 250
    assert {command.program for command in seen} >= set(OURS) - {"ktls-sidecar"}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_name_of_ours_is_one_that_the_code_has(page: Path) -> None:
    """Variables, modules, roles, metrics: what is written as code and begins with ktls_."""
    names = {
        name: block.where
        for block in blocks(page)
        for name in re.findall(r"(?<![\w.-])ktls_[a-z0-9_]+\b(?![*/.-]|\[)", block.text)
        if block.mark.not_run != "output"
    }
    missing = [f"{where}: {name}" for name, where in names.items() if not known(name)]
    assert missing == []


def known(name: str) -> bool:
    """A name of the code, or a file's, a directory's."""
    # Prometheus makes these from a histogram.
    return name in grammar.variables() or re.sub(r"_(bucket|sum|count)$", "", name) in grammar.variables()


def concrete(block: Block) -> bool:
    """Commands that could be typed as they are, and so could be run."""
    found = [command for command in commands(block) if command.program in ("ktls", "ansible-playbook")]
    return bool(found) and all(not command.form for command in found)


@pytest.mark.parametrize("page", [page for page in pages() if "docs" in page.parts], ids=lambda page: page.name)
def test_what_could_be_run_is_run_or_says_why_not(page: Path) -> None:
    """In docs/: commands without placeholders stand in a fence for the shell; there they are run, or have a mark."""
    loose = [block.where for block in blocks(page) if block.kind != "inline" and not block.shell and concrete(block)]
    assert loose == [], "make it a fence of sh or console; where it cannot be run, with <!-- not run: … -->"
