# SPDX-License-Identifier: Apache-2.0
"""Blocks of code and code in running text, as the pages of the project have them.

A comment before a block says what the tests do with it; see :data:`REASONS` and ``docs/decisions/0042``::

    <!-- not run: hosts -->          the commands are only checked for what they say
    <!-- run: exit 1 -->             run, and this has to be the exit status of the last command
    <!-- run: fleet web1 web2 -->    from here to the end of the page there is a fleet of fake hosts, in inventory/mine
    <!-- run: fleet inventory/x web1=nginx -->    in another inventory, served by nginx
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).resolve().parents[2]

#: Why a block of commands is not run. A form has placeholders where a reader has names.
REASONS = {
    "output": "what a program said, no commands",
    "form": "how a command is written, not a command",
    "hosts": "wants hosts or keys of the reader's own: tests/vm does that",
    "root": "needs root on a host, its kernel or its programs",
    "hardware": "needs a real network card",
    "lab": "boots virtual machines, for minutes",
    "network": "fetches from the network",
    "long": "runs for minutes",
}
_MARK = re.compile(r"^<!-- (not run|run): (.+?) -->$")


class MarkError(ValueError):
    """A comment that means nothing."""


@dataclass(frozen=True)
class Mark:
    """What the comments before a block say."""

    not_run: str | None = None
    exit: int = 0
    fleet: tuple[str, ...] = ()


@dataclass(frozen=True)
class Block:
    """:param kind: ``fence``, ``indented`` or ``inline``; :param info: language of a fence."""

    page: Path
    line: int
    kind: str
    text: str
    info: str = ""
    mark: Mark = field(default_factory=Mark)

    @property
    def where(self) -> str:
        """For messages: page and line."""
        return f"{self.page.relative_to(ROOT) if self.page.is_relative_to(ROOT) else self.page}:{self.line}"

    @property
    def shell(self) -> bool:
        """Whether this is for a shell by its own word, and so run unless a mark says otherwise."""
        return self.kind == "fence" and self.info in ("sh", "console")

    @property
    def run(self) -> bool:
        """Whether the tests run it."""
        return self.shell and self.mark.not_run is None


def pages() -> list[Path]:
    """Every page that a reader may take commands from; fixtures are no pages."""
    found = [path for place in ("*.md", "docs/**/*.md", "lab/**/*.md", "roles/**/*.md") for path in ROOT.glob(place)]
    return sorted(set(found))


def blocks(page: Path, text: str | None = None) -> list[Block]:
    """Blocks of a page in their order.

    :raises MarkError: a mark that nobody knows, or one that is before no block.
    """
    return list(_blocks(page, text)) if text is not None else list(_of(page))


@cache
def _of(page: Path) -> tuple[Block, ...]:
    return tuple(_blocks(page, page.read_text(encoding="utf-8")))


def _blocks(page: Path, text: str) -> Iterator[Block]:
    marks: list[str] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        line = (token.map or [0])[0] + 1
        if token.type == "html_block":
            marks += [part for part in token.content.strip().splitlines() if _MARK.match(part)]
            continue
        if token.type in ("fence", "code_block"):
            kind = "fence" if token.type == "fence" else "indented"
            info = token.info.split()[0] if token.info.split() else ""
            yield Block(page, line, kind, token.content, info, _mark(marks, f"{page.name}:{line}"))
            marks = []
        elif token.type == "inline":
            yield from _inline(page, line, token.children or ())
        if marks and token.type in ("heading_open", "paragraph_open") and token.level == 0:
            raise MarkError(f"{page.name}:{line}: {marks[0]} is before no block")


def _inline(page: Path, line: int, children: Sequence[Token]) -> Iterator[Block]:
    for child in children:
        if child.type == "code_inline":
            yield Block(page, line, "inline", child.content)
        elif child.type in ("softbreak", "hardbreak"):
            line += 1


def _mark(marks: Sequence[str], where: str) -> Mark:
    not_run: str | None = None
    status, fleet = 0, ()
    for comment in marks:
        found = _MARK.match(comment)
        assert found
        verb, (word, *rest) = found[1], found[2].split()
        if verb == "not run" and word in REASONS:
            not_run = word
        elif verb == "run" and word == "exit" and len(rest) == 1 and rest[0].isdigit():
            status = int(rest[0])
        elif verb == "run" and word == "fleet" and rest:
            fleet = tuple(rest)
        else:
            raise MarkError(f"{where}: {comment}: there is {', '.join(REASONS)} for what is not run, exit N and fleet")
    return Mark(not_run, status, fleet)
