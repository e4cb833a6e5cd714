# SPDX-License-Identifier: Apache-2.0
"""Files of a role, and what holds for every role: options, defaults, tasks and README say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

ROLES = Path(__file__).parents[1] / "roles"
#: What a README tells, besides the purpose.
HEADINGS = ("Requirements", "Variables", "Example", "Consent", "Check mode", "The way back")
_NAME = re.compile(r"\b_{0,2}ktls_[a-z0-9_]+\b")


def names() -> list[str]:
    """Every role."""
    return sorted(path.name for path in ROLES.iterdir() if path.is_dir())


def read(role: str, name: str) -> Any:
    """A file of the role, as YAML."""
    return yaml.safe_load((ROLES / role / name).read_text())


def check_options(role: str) -> dict[str, Any]:
    """Compare documentation, defaults and README. Returns the defaults."""
    assert problems(ROLES / role) == []
    defaults: dict[str, Any] = read(role, "defaults/main.yml")
    return defaults


def problems(role: Path) -> list[str]:
    """What does not agree in the role at this path; one line each."""
    try:
        readme = (role / "README.md").read_text()
        options = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]["main"]["options"]
        defaults = yaml.safe_load((role / "defaults/main.yml").read_text()) or {}
    except FileNotFoundError as error:
        return [f"there is no {Path(str(error.filename)).relative_to(role)}"]
    return [
        *_defaults(options, defaults),
        *_readme(options, defaults, readme),
        *_tasks(role, options),
        *_examples(role, readme),
    ]


def _defaults(options: dict[str, Any], defaults: dict[str, Any]) -> Iterator[str]:
    for name in sorted(set(options) | set(defaults)):
        option = options.get(name)
        if option is None:
            yield f"{name} has a default and is no option"
            continue
        if not (option.get("description") and option.get("type")):
            yield f"{name} is not described, or has no type"
        if option.get("required"):
            if name in defaults or "default" in option:
                yield f"{name} is required and has a default"
        elif name not in defaults:
            yield f"{name} has no default in defaults/main.yml and is not required"
        elif "default" in option and option["default"] != defaults[name]:
            yield f"{name}: the documented default {option['default']!r} is not {defaults[name]!r}"
        elif "default" not in option and not _worked_out(defaults[name]):
            yield f"{name}: its default {defaults[name]!r} is not documented"
    plain = {name: value for name, value in defaults.items() if name in options and not _worked_out(value)}
    spec = {name: _argument(option) for name, option in options.items() if name in plain}
    for message in ArgumentSpecValidator(spec).validate(plain).error_messages:
        yield f"a default is not what its option takes: {message}"


def _worked_out(value: object) -> bool:
    return "{{" in str(value)


def _argument(option: dict[str, Any]) -> dict[str, Any]:
    """An option as an argument of a module."""
    keys = ("type", "elements", "choices", "required")
    kept: dict[str, Any] = {key: option[key] for key in keys if key in option}
    if "options" in option:
        kept["options"] = {name: _argument(part) for name, part in option["options"].items()}
    return kept


def _readme(options: dict[str, Any], defaults: dict[str, Any], readme: str) -> Iterator[str]:
    found = re.findall(r"^## (.+)$", readme, re.MULTILINE)
    if [heading for heading in found if heading in HEADINGS] != list(HEADINGS):
        yield f"README.md: it needs the headings {', '.join(HEADINGS)}, in this order; it has {', '.join(found)}"
        return
    told = dict(re.findall(r"^## ([^\n]+)\n+(.*?)(?=^## |\Z)", readme, re.MULTILINE | re.DOTALL))
    rows = dict(_rows(told["Variables"]))
    for name in sorted({row for row in rows if "." not in row} ^ set(options)):
        yield f"README.md: {name} is {'no option' if name in rows else 'not in the table of variables'}"
    for name, option in options.items():
        kind, default, _meaning = rows.get(name, ("", "", ""))
        if name not in rows:
            continue
        if kind != (f"list of {option['elements']}" if "elements" in option else option["type"]):
            yield f"README.md: {name} is no {kind}"
        if (default == "required") != bool(option.get("required")):
            yield f"README.md: {name}: who has to set it?"
        elif default != "required" and name in defaults and json.loads(default.strip("`")) != defaults[name]:
            yield f"README.md: the default of {name} is {defaults[name]!r}, not {default}"
        missing = sorted(f"{name}{'[]' * ('elements' in option)}.{part}" for part in option.get("options") or ())
        yield from (f"README.md: {part} is not in the table" for part in missing if part not in rows)
    for name, option in options.items():
        if option["type"] == "bool" and re.search(r"(_ok|_consent)$", name) and f"`{name}" not in told["Consent"]:
            yield f"README.md: under Consent there is nothing of {name}"
    for heading in HEADINGS:
        if not told[heading].strip():
            yield f"README.md: nothing is under {heading}"


def _rows(table: str) -> Iterator[tuple[str, tuple[str, str, str]]]:
    for line in table.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(cells) == 4 and cells[0].startswith("`"):
            yield cells[0].strip("`"), (cells[1], cells[2], cells[3])


def _tasks(role: Path, options: dict[str, Any]) -> Iterator[str]:
    """Options that no task uses, names of this role that are no options, and switches that are taken for booleans."""
    texts = {
        path: path.read_text()
        for place in ("tasks", "handlers", "templates", "vars", "defaults")
        for path in sorted((role / place).glob("*"))
    }
    everything = "\n".join(text for path, text in texts.items() if path.parent.name != "defaults")
    worked_out = "\n".join(text for path, text in texts.items() if path.parent.name == "defaults")
    used = set(_NAME.findall(everything)) | {
        name for line in worked_out.splitlines() for name in _NAME.findall(line.partition(":")[2])
    }
    set_here = set(re.findall(r"^\s+(ktls_[a-z0-9_]+):", everything, re.MULTILINE))
    prefix = f"{role.name}_"
    elsewhere = "\n".join(path.read_text() for path in role.parent.glob("*/[tdv]*/*.yml") if role not in path.parents)
    for name in sorted(set(options) - used - set(_NAME.findall(elsewhere))):
        yield f"{name} is an option that no task uses"
    modules = {path.stem for path in (ROLES.parent / "library").glob("*.py")}
    for name in sorted(used - set(options) - set_here - modules):
        if name.startswith(prefix):
            yield f"{name} is used and is no option"
    for name, option in options.items():
        if not name.startswith(prefix):
            yield f"{name} does not begin with the role's name"
        for path, text in texts.items():
            if option.get("type") == "bool" and path.parent.name == "tasks":
                bare = re.findall(rf"\b{name}\b(?!\s*\|\s*bool\b)", re.sub(r"#.*", "", text))
                if bare:
                    # `-e NAME=false` on a command line is a string, and true.
                    yield f"{path.name}: {name} without `| bool`"


def _examples(role: Path, readme: str) -> Iterator[str]:
    """Every YAML block of the README is plays with roles of this collection, and what they are given is right."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    used: list[str] = []
    for play in (play for block in blocks for play in yaml.safe_load(block)):
        for entry in play.get("roles", ()):
            name = str(entry["role"]).removeprefix("ktls.fleet.")
            used.append(name)
            place = role.parent / name / "meta" / "argument_specs.yml"
            if not place.exists():
                yield f"an example uses {entry['role']}, which there is not"
                continue
            options = yaml.safe_load(place.read_text())["argument_specs"]["main"]["options"]
            given = entry.get("vars") or {}
            yield from (f"an example has {key!r} beside the role" for key in sorted(set(entry) - {"role", "vars"}))
            yield from (f"an example gives {key} no value" for key in sorted(given) if given[key] is None)
            yield from (f"an example gives {key}, which is no option" for key in sorted(set(given) - set(options)))
            spec = {key: _argument(option) for key, option in options.items() if key in given or option.get("required")}
            for message in ArgumentSpecValidator(spec).validate(dict(given)).error_messages:
                yield f"an example is not valid: {message}"
    if role.name not in used:
        yield "no example uses the role by its full name"
