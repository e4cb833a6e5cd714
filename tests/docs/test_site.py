# SPDX-License-Identifier: Apache-2.0
"""The site: nothing of it is fetched from anywhere, every page is in the menu, a mistake stops the build."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.page import look
from tools.site import menu

from .pages import ROOT

#: What a browser loads by itself; links that a reader follows may lead anywhere.
_LOADED = re.compile(
    r"<(?:script|img|iframe|source|embed|video|audio)\b[^>]*?\bsrc(?:set)?=\"([^\"]+)\""
    r"|<link\b(?![^>]*rel=\"(?:next|prev|index|search|canonical)\")[^>]*?\bhref=\"([^\"]+)\""
    r"|<object\b[^>]*?\bdata=\"([^\"]+)\""
)
_OF_STYLES = re.compile(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site that ``make docs`` has built, if it is as new as every page, else one built now."""
    built = ROOT / "build/docs"
    sources = [path.stat().st_mtime for place in ("docs", "tools/site") for path in (ROOT / place).rglob("*.*")]
    if (built / "searchindex.js").exists() and (built / "searchindex.js").stat().st_mtime > max(sources):
        return built
    built = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", built)
    assert done.returncode == 0, done.stderr
    return built


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """As ``make docs`` does it."""
    program = str(Path(sys.executable).with_name("sphinx-build"))
    command = [
        program,
        "-q",
        "-W",
        "--keep-going",
        "-c",
        str(ROOT / "tools/site"),
        "-b",
        "html",
        str(source),
        str(target),
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def fetched(text: str, pattern: re.Pattern[str] = _LOADED) -> list[str]:
    """What a page or a style sheet loads from other places."""
    found = [next(filter(None, match.groups()), "") for match in pattern.finditer(text)]
    return [url for url in found if re.match(r"(?:[a-z]+:)?//", url)]


def test_nothing_is_loaded_from_anywhere(site: Path) -> None:
    html, styles = list(site.rglob("*.html")), list(site.rglob("*.css"))
    assert len(html) > 50
    assert {path.name: found for path in html if (found := fetched(path.read_text(encoding="utf-8")))} == {}
    for path in styles:
        assert fetched(path.read_text(encoding="utf-8"), _OF_STYLES) == [], path


def test_what_is_loaded_is_noticed() -> None:
    assert fetched('<script async src="https://cdn.example/x.js"></script><a href="https://example.org/">') == [
        "https://cdn.example/x.js"
    ]
    assert fetched('<link rel="stylesheet" href="//fonts.example/css">') == ["//fonts.example/css"]
    assert fetched("a{b:url('https://fonts.example/f.woff2')}", _OF_STYLES) == ["https://fonts.example/f.woff2"]


@pytest.mark.parametrize(("page", "dark"), [("concepts", False), ("concepts", True), ("performance", False)])
def test_a_browser_shows_it_and_asks_nobody(site: Path, page: str, dark: bool, tmp_path: Path) -> None:
    seen = look(site / f"{page}.html", tmp_path, dark=dark)
    assert seen.colours > 300, "all but blank"
    assert [url for url in seen.requests if not url.startswith("file:")] == []
    # The theme says which mode it took; a picture or script that is not there would be an error.
    assert [line for line in seen.console if "ERR_" in line or "Error" in line] == []


def test_every_page_is_in_the_menu(site: Path) -> None:
    menu = (site / "off.html").read_text(encoding="utf-8").partition('class="bd-docs-nav')[2].partition("</nav>")[0]
    listed = set(re.findall(r'href="([\w/.-]+)\.html"', menu)) | {"off", "index"}
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= listed
    assert "decisions/README" in listed


def test_every_mistake_stops_the_build(tmp_path: Path) -> None:
    mistakes = {
        "anchor": ("# One\n[x](#two)\n", "'two'"),
        "page": ("# One\n[x](gone.md)\n", "gone.md"),
        "other": ("# One\n[x](index.md#three)\n", "'three'"),
        "picture": ("# One\n![x](gone.png)\n", "gone.png"),
        "heading": ("# One\n\n## Two\n\n#### Four\n", "H2 to H4"),
        "lost": ("# In no list\n", "isn't included in any toctree"),
        "outside": ("# One\n[x](../../../nowhere/gone.yml)\n", "gone.yml is not there"),
    }
    source = tmp_path / "docs"
    source.mkdir()
    listed = "".join(f"- [{name}]({name}.md)\n" for name in mistakes if name != "lost")
    (source / "index.md").write_text(f"# All\n\n## Pages\n\n{listed}")
    for name, (text, _said) in mistakes.items():
        (source / f"{name}.md").write_text(text)
    done = build(source, tmp_path / "site")
    assert done.returncode != 0
    for name, (_text, said) in mistakes.items():
        assert any(f"{name}.md" in line and said in line for line in done.stderr.splitlines()), (name, done.stderr)


def test_links_that_leave_the_pages() -> None:
    missing: list[str] = []
    note: Callable[[str], object] = missing.append
    page = ROOT / "docs/decisions/0001-x.md"
    text = "[a](../../playbooks/off.yml) [b](../off.md#x) [c](../../gone.yml) [d](../../README.md#limits)"
    left = menu.leave(text, page, note)
    assert left == (
        f"[a]({menu.REPOSITORY}playbooks/off.yml) [b](../off.md#x) [c](../../gone.yml) "
        f"[d]({menu.REPOSITORY}README.md#limits)"
    )
    assert missing == ["../../gone.yml"]


def test_the_menu_is_the_front_page() -> None:
    made = menu.menu("# F\n\n## A\n\n- [Big one](one.md): x\n- no link\n\n## B\n\n- [Two](d/two.md)\n")
    assert made == (
        "```{toctree}\n:hidden:\n:caption: A\n\nBig one <one>\n```\n\n"
        "```{toctree}\n:hidden:\n:caption: B\n\nTwo <d/two>\n```"
    )
