# SPDX-License-Identifier: Apache-2.0
"""``changelogs/changelog.yaml`` of the collection, in the form of antsibull-changelog.

Written when the collection is built (``tools/collection.py``), from ``CHANGELOG.md`` and, for what is new in a release,
from the ``version_added`` of modules, plugins and roles. A file of its own would have to be kept in step with both.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

#: Headings of Keep a Changelog, and sections of antsibull-changelog.
SECTIONS = {
    "Added": "minor_changes",
    "Changed": "minor_changes",
    "Deprecated": "deprecated_features",
    "Removed": "removed_features",
    "Fixed": "bugfixes",
    "Security": "security_fixes",
}
_RELEASE = re.compile(r"^## \[(?P<version>[^\]]+)\] - (?P<date>\S+)$", re.MULTILINE)


class ChangelogError(Exception):
    """``CHANGELOG.md`` is not in the form that it should have; the message is one line with the cure."""


def document(root: Path) -> dict[str, Any]:
    """The content of ``changelogs/changelog.yaml`` for the tree at ``root``.

    :raises ChangelogError: a heading is unknown.
    """
    text = (root / "CHANGELOG.md").read_text()
    releases: dict[str, Any] = {}
    found = list(_RELEASE.finditer(text))
    if not found:
        raise ChangelogError("CHANGELOG.md: there is no release, as in: ## [1.2.3] - 2026-11-26")
    for this, following in zip(found, [*found[1:], None], strict=True):
        body = text[this.end() : following.start() if following else len(text)]
        releases[this["version"]] = _release(this["version"], this["date"], body, root)
    return {"ancestor": None, "releases": releases}


def _release(version: str, date: str, body: str, root: Path) -> dict[str, Any]:
    changes: dict[str, list[str]] = {}
    for heading, entries in re.findall(r"^### ([^\n]+)\n(.*?)(?=^### |\Z)", body, re.MULTILINE | re.DOTALL):
        if heading not in SECTIONS:
            raise ChangelogError(f"CHANGELOG.md: {heading!r} in {version} is none of {', '.join(SECTIONS)}")
        changes.setdefault(SECTIONS[heading], []).extend(_entries(entries))
    new = dict(_new(version, root))
    return {
        "changes": changes,
        "modules": [_item(one, "") for one in new.pop("module")],
        "objects": {"role": [_item(one, None) for one in new.pop("role")]},
        "plugins": {kind: [_item(one, None) for one in found] for kind, found in new.items()},
        "release_date": _built_on(root) if date == "unreleased" else date,
    }


def _built_on(root: Path) -> str:
    """For what is not released: the day of the commit, so that a build gives the same again; the form wants a day."""
    told = root / "made_of.json"  # an export of a checkout for the build of a release
    if told.exists():
        return str(json.loads(told.read_text(encoding="utf-8"))["date"])
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root), "log", "-1", "--format=%cs"]
    done = subprocess.run(command, capture_output=True, text=True, check=False) if (root / ".git").exists() else None
    return done.stdout.strip() if done and done.returncode == 0 else "1970-01-01"


def _item(one: tuple[str, str], namespace: str | None) -> dict[str, str | None]:
    return {"name": one[0], "description": one[1], "namespace": namespace}


def _entries(text: str) -> Iterator[str]:
    """Each entry of a list, on one line, in reStructuredText."""
    for entry in re.split(r"^- ", text, flags=re.MULTILINE)[1:]:
        line = " ".join(entry.split())
        line = re.sub(r"`([^`]+)`", r"``\1``", line)
        line = re.sub(r"\[([^\]]+)\]\((http[^)]+)\)", r"`\1 <\2>`__", line)
        yield re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", line)


def _new(version: str, root: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """By type, name and short description of what came with a release."""
    pages: dict[str, list[tuple[str, dict[str, Any]]]] = {
        "module": [(path.stem, _documentation(path)) for path in sorted((root / "library").glob("ktls_*.py"))],
        "callback": [
            (path.stem, _documentation(path)) for path in sorted((root / "plugins/callback").glob("ktls_*.py"))
        ],
        "filter": [
            (path.stem, yaml.safe_load(path.read_text())["DOCUMENTATION"])
            for path in sorted((root / "plugins/filter").glob("ktls_*.yml"))
        ],
        "role": [
            (path.parts[-3], yaml.safe_load(path.read_text())["argument_specs"]["main"])
            for path in sorted((root / "roles").glob("*/meta/argument_specs.yml"))
        ],
    }
    for kind, found in pages.items():
        yield kind, [(name, page["short_description"]) for name, page in found if page.get("version_added") == version]


def _documentation(path: Path) -> dict[str, Any]:
    found = re.search(r'^DOCUMENTATION = r?"""\n(.*?)^"""', path.read_text(), re.MULTILINE | re.DOTALL)
    if found is None:
        raise ChangelogError(f"{path}: there is no DOCUMENTATION")
    page: dict[str, Any] = yaml.safe_load(found[1])
    return page


def write(root: Path, path: Path) -> None:
    """Write the document for the tree at ``root``. :raises ChangelogError: see :func:`document`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("---\n" + yaml.safe_dump(document(root), sort_keys=False, width=10_000, allow_unicode=True))
