# SPDX-License-Identifier: Apache-2.0
"""Every role has a scenario, and scenarios are what docs/testing.md says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktls_lab.paths import check_lab_name
from tests.molecule import runner

ROOT = Path(__file__).parents[3]
HERE = ROOT / "tests/molecule"
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
SCENARIOS = sorted(path.parent.name for path in HERE.glob("*/molecule.yml"))
#: Without a role of its name.
OTHERS = {"upgrade"}
FILES = ("molecule.yml", "tasks/fault.yml", "tasks/verify.yml")
SEQUENCE = ["create", "prepare", "check", "converge", "idempotence", "check", "side_effect", "verify", "destroy"]


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def tasks(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in found:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks(task.get(part, []))


def _role(task: dict[str, Any]) -> object:
    return (task.get("ansible.builtin.include_role") or {}).get("name")


def test_every_role_has_a_scenario_and_every_scenario_a_role() -> None:
    assert sorted(set(SCENARIOS) - OTHERS) == ROLES, (
        "a role needs a directory of its name in tests/molecule; docs/testing.md says what is in it"
    )


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_has_its_files_and_no_more_of_its_own_than_it_needs(name: str) -> None:
    for file in FILES:
        assert (HERE / name / file).is_file(), f"{name} lacks {file}"
    shared = {path.name for path in (HERE / "shared").iterdir()}
    own = {path.name for path in (HERE / name).glob("*.yml")}
    assert name in OTHERS or not own & shared, f"{name} has a {own & shared} of its own, and the shared one is not used"


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_says_what_hosts_it_wants(name: str) -> None:
    scenario = load(HERE / name / "molecule.yml")
    platforms = scenario["platforms"]
    # The lab names its hosts itself.
    assert [platform["name"] for platform in platforms] == [f"web{n}" for n in range(1, len(platforms) + 1)]
    assert any("subject" in platform["groups"] for platform in platforms), "nobody takes the role"
    for platform in platforms:
        assert set(platform) <= {"name", "groups", "image", "rig"}
        assert (ROOT / f"lab/images/{platform.get('image', 'debian13')}.yml").is_file()
    sequence = scenario.get("scenario", {}).get("test_sequence", SEQUENCE)
    assert [step for step in SEQUENCE if step not in sequence] == []


def test_the_shared_sequence_is_the_one_that_is_promised() -> None:
    assert load(HERE / "config.yml")["scenario"]["test_sequence"] == SEQUENCE


@pytest.mark.parametrize("name", SCENARIOS)
def test_verify_looks_with_other_programs_than_ours(name: str) -> None:
    found = list(tasks(load(HERE / name / "tasks/verify.yml")))
    used = {key for task in found for key in task if "." in key}
    assert not [key for key in used if key.startswith("ktls.")], f"{name} verifies with a module of ours"
    scripts = " ".join(str(task.get("ansible.builtin.raw", "")) for task in found)
    commands = set(re.findall(r"(?<![\w/.-])ktls-(?:agent|sidecar|sentinel|publish|off)(?= [a-z])", scripts))
    # Only a live agent can tell whether it still refuses an older order.
    assert name in OTHERS or not commands, f"{name} asks {commands}"


@pytest.mark.parametrize("name", sorted(set(SCENARIOS) - OTHERS))
def test_a_fault_breaks_something_and_the_role_comes_again(name: str) -> None:
    found = list(tasks(load(HERE / name / "tasks/fault.yml")))
    again = [task for task in found if _role(task) == f"ktls.fleet.{name}"]
    assert again, f"after the fault {name} is not taken again"
    assert any(task.get("changed_when") is True for task in found), "nothing is broken"


@pytest.mark.parametrize("name", SCENARIOS)
def test_nothing_hides_a_failure(name: str) -> None:
    for path in (HERE / name).rglob("*.yml"):
        text = path.read_text()
        assert "ignore_errors" not in text and "failed_when: false" not in text, path


def test_labs_have_names_that_the_lab_takes() -> None:
    names = [runner.lab_name(name) for name in SCENARIOS]
    assert [check_lab_name(name) for name in names] == names
    assert len(set(names)) == len(names)


def test_no_image_must_be_built_for_make_test_that_is_not_built_there() -> None:
    built = {"debian13", "debian12", "debian13-backports"}
    wanted = {p.get("image", "debian13") for name in SCENARIOS for p in load(HERE / name / "molecule.yml")["platforms"]}
    assert wanted - built - {"debian13-bench"} == set()
