# SPDX-License-Identifier: Apache-2.0
"""Files and tests that pages name are there, and the page of threats names a test for each claim."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .pages import ROOT, blocks, pages

_OURS = r"tests|agent|control|library|roles|playbooks|lab|tools|bench|dashboards|inventory|plugins|docs|requirements"
_FILE = re.compile(rf"^((?:{_OURS})/[\w./-]*?)/?(?:::(\w+))?$")


#: Not in the tree: what readers and builds make.
MADE = ("inventory/mine", "agent/ktls.pyz")


def missing(text: str) -> str | None:
    """What is not there of a file, or a function of a test, that is written as code; None: it is, or it is no file."""
    found = _FILE.match(text)
    # What a reader or a build makes, and names that stand for many.
    if not found or found[1].startswith(MADE) or re.search(r"/[A-Z]+(/|$)", found[1]):
        return None
    path = ROOT / found[1]
    if not path.exists():
        return text
    if found[2] and not re.search(rf"^(?:async )?def {found[2]}\(", path.read_text(encoding="utf-8"), re.MULTILINE):
        return text
    return None


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_what_is_named_is_there(page: Path) -> None:
    named = [(block.where, missing(block.text)) for block in blocks(page) if block.kind == "inline"]
    assert [one for one in named if one[1]] == []


def test_what_is_not_there_is_found() -> None:
    assert missing("tests/docs/test_references.py::missing") is None
    assert missing("tests/docs/test_references.py::test_nothing") == "tests/docs/test_references.py::test_nothing"
    assert missing("agent/ktls_host/nowhere.py") == "agent/ktls_host/nowhere.py"
    assert missing("and/or") is None


def test_every_claim_about_threats_has_a_test() -> None:
    text = (ROOT / "docs/threat-model.md").read_text(encoding="utf-8")
    rows = [row for table in text.split("| claim | shown by |\n|---|---|\n")[1:] for row in _rows(table)]
    assert len(rows) > 35
    assert [row for row in rows if not re.search(r"`tests/[\w/.]+", row)] == []


def _rows(table: str) -> list[str]:
    rows = []
    for line in table.splitlines():
        if not line.startswith("|"):
            break
        rows.append(line.rpartition("|")[0].rpartition(" | ")[2])
    return rows
