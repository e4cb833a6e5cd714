# SPDX-License-Identifier: Apache-2.0
"""What tells Ansible and its tools about the collection: routing, requirements, the changelog."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomllib
import yaml

from tests import cleanroom
from tools import changelog

ROOT = Path(__file__).resolve().parents[3]


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return loaded


def documented(module: str) -> dict[str, Any]:
    text = (ROOT / "library" / f"{module}.py").read_text()
    page: dict[str, Any] = yaml.safe_load(text.partition('DOCUMENTATION = r"""')[2].partition('"""')[0])
    return page


def test_action_groups_are_what_the_modules_take() -> None:
    groups = load("meta/runtime.yml")["action_groups"]
    modules = {path.stem for path in (ROOT / "library").glob("ktls_*.py")}
    assert set(groups) == {"agent", "levers"}
    assert groups["agent"] == sorted(name for name in modules if "socket" in documented(name)["options"])
    levers = {name for name in modules if {"edited", "state"} <= set(documented(name)["options"])}
    assert groups["levers"] == sorted(levers)


def test_it_requires_the_ansible_that_it_is_tested_with() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (ansible,) = (text for text in project["dependencies"] if text.startswith("ansible-core"))
    assert load("meta/runtime.yml")["requires_ansible"].removesuffix(".0") in ansible


def test_requirements_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert set(lines) <= set(project["dependencies"])
    assert {re.split(r"\W", line)[0] for line in lines} == set(cleanroom.names(ROOT / "requirements.txt"))


def test_an_execution_environment_learns_what_it_needs() -> None:
    wanted = load("meta/execution-environment.yml")
    assert wanted["version"] == 1
    assert set(wanted["dependencies"]) == {"python", "system"}
    for name in wanted["dependencies"].values():
        assert (ROOT / name).is_file()


def test_the_changelog_has_what_is_new_by_type_and_what_changed(installed: Path) -> None:
    releases = yaml.safe_load((installed / "changelogs/changelog.yaml").read_text())["releases"]
    assert list(releases) == re.findall(r"^## \[([\d.]+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert load("galaxy.yml")["version"] in releases
    modules = [one["name"] for release in releases.values() for one in release["modules"]]
    assert sorted(modules) == sorted(path.stem for path in (ROOT / "library").glob("ktls_*.py"))
    roles = [one["name"] for release in releases.values() for one in release["objects"]["role"]]
    assert sorted(roles) == sorted(path.name for path in (ROOT / "roles").iterdir())
    for release in releases.values():
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", release["release_date"])
        assert all(
            "\n" not in entry and "](" not in entry for entries in release["changes"].values() for entry in entries
        )
    known = {section for section, _title in load("changelogs/config.yaml")["sections"]}
    assert {section for release in releases.values() for section in release["changes"]} <= known
    assert set(changelog.SECTIONS.values()) <= known


def test_entries_become_one_line_each(tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [0.2.0] - 2026-12-01\n\n### Fixed\n\n- A `thing` that\n  spans [lines](docs/x.md).\n"
        "- Another, see [there](https://example.org/).\n\n## [0.1.0] - 2026-11-26\n\n### Added\n\n- All.\n"
    )
    releases = changelog.document(tmp_path)["releases"]
    assert releases["0.2.0"]["changes"] == {
        "bugfixes": ["A ``thing`` that spans lines.", "Another, see `there <https://example.org/>`__."]
    }
    assert releases["0.1.0"]["release_date"] == "2026-11-26"


def test_a_heading_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "CHANGELOG.md").write_text("## [0.2.0] - 2026-12-01\n\n### Improved\n\n- All.\n")
    with pytest.raises(changelog.ChangelogError, match=r"'Improved' in 0\.2\.0 is none of Added, Changed"):
        changelog.document(tmp_path)
