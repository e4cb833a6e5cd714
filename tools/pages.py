# SPDX-License-Identifier: Apache-2.0
"""Write what the pages have from the code: options of every verb, the list of decisions, figures of the benchmarks.

.venv/bin/python -m tools.pages
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from . import performance

DOCS = Path(__file__).resolve().parents[1] / "docs"
GUIDE = DOCS / "operating.md"
DECISIONS = DOCS / "decisions/README.md"
_OPTIONS = re.compile(r"(<!-- options: ([a-z ]+) -->\n).*?(<!-- /options -->\n)", re.DOTALL)
_HEAD = """# Decisions

Each says what was decided, why, how we know, and what it costs; some say what was not taken. A decision that is
overtaken is changed, not kept: git has the history.

"""


def verbs() -> dict[str, argparse.ArgumentParser]:
    """Every verb of ``ktls`` with its real parser; those of a verb that has some of its own as ``flag sign``."""
    from ktls_control import cli

    found: dict[str, argparse.ArgumentParser] = {}
    for name in _children(cli._parser(None)):
        parser = _children(cli._parser(name))[name]
        own = _children(parser)
        found |= {f"{name} {verb}": child for verb, child in own.items()} if own else {name: parser}
    return found


def _children(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def options(parser: argparse.ArgumentParser) -> str:
    """A table of what a verb takes."""
    formatter = parser._get_formatter()
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        value = formatter._metavar_formatter(action, action.dest.upper())(1)[0] if action.nargs != 0 else ""
        names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{value}`"
        if action.option_strings and value:
            names = names[:-1] + f" {value}`"
        told = formatter._expand_help(action) if action.help else ""
        needed = " **Needed.**" if action.option_strings and action.required else ""
        rows.append(f"| {_cell(names)} | {_cell(told)}{needed} |\n")
    return "| option | |\n|---|---|\n" + "".join(rows) if rows else "It takes no options.\n"


def _cell(text: str) -> str:
    return re.sub(r"docs/([\w-]+\.md)", r"[\1](\1)", text.replace("|", "\\|"))


def guide(text: str) -> str:
    """The operator guide with its tables made anew.

    :raises KeyError: a table is of a verb that there is not.
    """
    known = verbs()
    return _OPTIONS.sub(lambda found: f"{found[1]}\n{options(known[found[2]])}\n{found[3]}", text)


def documented(text: str) -> set[str]:
    """Verbs that have a table in the guide."""
    return {found[2] for found in _OPTIONS.finditer(text)}


def decisions() -> str:
    """The list of decisions."""
    return _HEAD + "".join(_decisions())


def _decisions() -> Iterator[str]:
    for path in sorted(DECISIONS.parent.glob("[0-9]*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        yield f"- [{title}]({path.name})\n"


def pages() -> dict[Path, Callable[[], str]]:
    """Pages that are made, and how."""
    return {
        GUIDE: lambda: guide(GUIDE.read_text(encoding="utf-8")),
        DECISIONS: decisions,
        performance.PAGE: performance.page,
    }


if __name__ == "__main__":
    for target, make in pages().items():
        target.write_text(make(), encoding="utf-8")
    performance.draw()
