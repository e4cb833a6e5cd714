# SPDX-License-Identifier: Apache-2.0
"""What the pages need to be a site and stay plain Markdown: a menu made from the front page, links that leave docs/."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sphinx.util import logging

_LOG = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parents[2]
#: Where a reader of the site finds files of the tree that are no pages.
REPOSITORY = "https://github.com/ktls-fleet/ktls-fleet/blob/main/"
_HEADING = re.compile(r"^## (.+)$")
_ENTRY = re.compile(r"^- \[([^]]+)\]\(([\w/.-]+)\.md\)")
_LEAVING = re.compile(r"\]\(((?:\.\./)+[^)\s#]+)(#[^)\s]*)?\)")


def menu(front: str) -> str:
    """Return toctree directives for the lists of pages below the headings of the front page.

    So there is one list, which a reader of the plain file sees, too. Sphinx warns of a page that is in none.
    """
    parts: dict[str, list[str]] = {}
    heading = ""
    for line in front.splitlines():
        if found := _HEADING.match(line):
            heading = found[1]
        elif found := _ENTRY.match(line):
            parts.setdefault(heading, []).append(f"{found[1]} <{found[2]}>")
    blocks = (
        "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *pages, "```"])
        for caption, pages in parts.items()
    )
    return "\n\n".join(blocks)


def listed(index: str) -> Iterator[str]:
    """Yield the pages that the index of the decisions names."""
    yield from re.findall(r"\]\((\d{4}-[\w-]+)\.md\)", index)


def leave(text: str, page: Path, missing: Callable[[str], object]) -> str:
    """Turn links that lead out of docs/ into links to the repository; ``missing`` gets those that lead nowhere."""

    def link(found: re.Match[str]) -> str:
        target = (page.parent / found[1]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return found[0]
        if not target.exists() or not target.is_relative_to(ROOT):
            missing(found[1])
            return found[0]
        return f"]({REPOSITORY}{target.relative_to(ROOT)}{found[2] or ''})"

    return _LEAVING.sub(link, text)


def _read(app: Any, name: str, source: list[str]) -> None:
    page = Path(str(app.env.doc2path(name)))
    text = leave(source[0], page, lambda target: _LOG.warning("%s is not there", target, location=name))
    if name == "index":
        text += "\n\n" + menu(text) + "\n"
    elif name == "decisions/README":
        text += "\n\n" + "\n".join(["```{toctree}", ":hidden:", "", *listed(text), "```"]) + "\n"
    source[0] = text


def setup(app: Any) -> dict[str, Any]:
    """Register with Sphinx."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
