# SPDX-License-Identifier: Apache-2.0
"""Write what is generated in each role's README: its variables and its example, from ``meta/argument_specs.yml``.

    .venv/bin/python -m tools.role_readmes

Defaults are those of ``defaults/main.yml``, as JSON; one that is worked out is shown as its template. The rest of a
README is written by hand, around the generated parts.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[1] / "roles"
VARIABLES = ("<!-- variables: made by tools/role_readmes.py -->\n", "<!-- end of variables -->\n")
EXAMPLE = ("<!-- example: made by tools/role_readmes.py -->\n", "<!-- end of example -->\n")
HEAD = "| variable | type | default | meaning |\n|---|---|---|---|\n"
_MARKUP = re.compile(r"\b(?:RV|[BCIMOPUV])\(([^()]*(?:\([^()]*\))?[^()]*)\)")


class ReadmeError(Exception):
    """A README has no place for what is generated; the message is one line with the cure."""


def names(roles: Path = ROLES) -> list[str]:
    """Every role."""
    return sorted(path.name for path in roles.iterdir() if (path / "tasks").is_dir())


def generate(role: str, text: str, roles: Path = ROLES) -> str:
    """The README's text with its generated parts as they have to be.

    :raises ReadmeError: a marker is missing.
    """
    specs = yaml.safe_load((roles / role / "meta" / "argument_specs.yml").read_text())["argument_specs"]["main"]
    defaults = yaml.safe_load((roles / role / "defaults" / "main.yml").read_text()) or {}
    text = _between(role, text, VARIABLES, HEAD + "".join(_rows(specs.get("options") or {}, defaults)))
    return _between(role, text, EXAMPLE, f"```yaml\n{str(specs['examples']).strip()}\n```\n")


def _rows(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> Iterator[str]:
    for name, option in options.items():
        default = f"`{_cell(json.dumps(defaults[name]))}`" if name in defaults else "required"
        yield _row(name, option, default)
        yield from _parts(name, option)


def _parts(name: str, option: Mapping[str, Any]) -> Iterator[str]:
    """Rows for the keys of a dictionary, or of the dictionaries in a list."""
    within = f"{name}[]" if option["type"] == "list" else name
    for key, part in (option.get("options") or {}).items():
        default = "required" if part.get("required") else ""
        if "default" in part:
            default = f"`{_cell(json.dumps(part['default']))}`"
        yield _row(f"{within}.{key}", part, default)
        yield from _parts(f"{within}.{key}", part)


def _row(name: str, option: Mapping[str, Any], default: str) -> str:
    kind = f"list of {option['elements']}" if option.get("elements") else str(option["type"])
    description = option["description"]
    meaning = _plain(" ".join(description) if isinstance(description, list) else description)
    if option.get("choices"):
        meaning += f" One of {', '.join(f'`{choice}`' for choice in option['choices'])}."
    return f"| `{name}` | {kind} | {default} | {_cell(meaning)} |\n"


def _plain(text: str) -> str:
    """Ansible's markup as Markdown."""
    return " ".join(_MARKUP.sub(r"`\1`", text).split())


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _between(role: str, text: str, markers: tuple[str, str], content: str) -> str:
    before, begin, rest = text.partition(markers[0])
    _old, end, after = rest.partition(markers[1])
    if not (begin and end):
        lines = " and ".join(marker.strip() for marker in markers)
        raise ReadmeError(f"roles/{role}/README.md: put the lines {lines} where the generated part belongs")
    return before + begin + content + end + after


def main() -> int:
    """Write the README of every role. Returns the exit status."""
    for role in names():
        page = ROLES / role / "README.md"
        try:
            page.write_text(generate(role, page.read_text()))
        except FileNotFoundError as error:
            print(f"role_readmes: {error.filename}: write it first; see the README of another role", file=sys.stderr)
            return 1
        except ReadmeError as error:
            print(f"role_readmes: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
