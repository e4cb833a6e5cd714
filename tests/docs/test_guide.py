# SPDX-License-Identifier: Apache-2.0
"""The operator guide has every verb and every option, and pages that are made are as the code makes them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tools import pages, performance

from . import grammar

GUIDE = pages.GUIDE.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", list(pages.pages()), ids=lambda page: page.name)
def test_a_page_is_what_the_code_makes(page: Path) -> None:
    assert page.read_text(encoding="utf-8") == pages.pages()[page](), "run .venv/bin/python -m tools.pages"


def test_pictures_are_what_the_figures_give() -> None:
    for path, text in performance.images().items():
        assert path.read_text(encoding="utf-8") == text, "run .venv/bin/python -m tools.pages"


def test_figures_are_read_whole() -> None:
    runs = performance.results((pages.DOCS / "benchmarks.md").read_text(encoding="utf-8"))
    assert sum(len(run.ratios) for run in runs) >= 10
    assert all(run.machine["kernel"] and run.measured for run in runs)
    assert [name for name, _cost in performance.costs((pages.DOCS / "scale.md").read_text(encoding="utf-8"))] == [
        "rollout, tx",
        "three pings",
        "naive playbook",
    ]


def test_every_verb_is_in_the_guide() -> None:
    assert pages.documented(GUIDE) == set(pages.verbs()), "a section with <!-- options: VERB --> and <!-- /options -->"
    for verb in pages.verbs():
        assert f"\n## {verb.split()[0]}\n" in GUIDE, verb


def test_the_verbs_are_those_that_help_shows() -> None:
    """Not only those that a parser of ours finds."""
    shown = subprocess.run(
        [str(Path(sys.executable).with_name("ktls")), "--help"], capture_output=True, text=True, check=True
    ).stdout
    names = re.findall(r"^    ([a-z]+)\b", shown.partition("VERB\n")[2].partition("options:")[0], re.MULTILINE)
    assert len(names) >= 19
    assert {verb.split()[0] for verb in pages.verbs()} == set(names)


def test_every_verb_of_the_agent_is_in_the_guide() -> None:
    """But for those that systemd and playbooks call: they ask no socket of the agent's."""
    found = pages._children(grammar.agent()).items()
    verbs = {verb for verb, parser in found if "--socket" in parser._option_string_actions} | {"audit"}
    assert len(verbs) >= 14
    assert {verb for verb in verbs if f"`ktls-agent {verb}" not in GUIDE} == set()


def test_a_section_says_more_than_its_table() -> None:
    for verb in pages.verbs():
        section = GUIDE.partition(f"\n## {verb.split()[0]}\n")[2].partition("\n## ")[0]
        prose = re.sub(r"<!-- options: .*?<!-- /options -->", "", section, flags=re.DOTALL)
        prose = re.sub(r"^    .*$", "", prose, flags=re.MULTILINE)
        assert len(prose.split()) >= 8, verb


def test_a_new_option_is_missed() -> None:
    """Else the test of the pages could not fail."""
    verbs = pages.verbs()
    before = pages.options(verbs["off"])
    verbs["off"].add_argument("--new", metavar="X|Y", help="see docs/off.md | now", required=True)
    assert pages.options(verbs["off"]) == before + "| `--new X\\|Y` | see [off.md](off.md) \\| now **Needed.** |\n"
    with pytest.raises(KeyError):
        pages.guide("<!-- options: on -->\n<!-- /options -->\n")


def test_every_playbook_is_in_the_guide() -> None:
    books = {path.stem for path in (pages.DOCS.parent / "playbooks").glob("*.yml")}
    assert books <= set(re.findall(r"playbooks/(\w+)\.yml", GUIDE)), "which playbook does what is in the guide"
