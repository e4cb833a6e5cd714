# SPDX-License-Identifier: Apache-2.0
"""The definition of the execution environment: what it pins is what the project pins, what it copies is there.

The form itself was checked with ansible-builder 3.2.0 (``ansible-builder create``), which is no part of this project's
environment; what is asserted here is what drifts.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
#: Keys of a definition of version 3, from the documentation of ansible-builder.
TOP = {
    "version",
    "build_arg_defaults",
    "dependencies",
    "images",
    "additional_build_files",
    "additional_build_steps",
    "options",
}
DEPENDENCIES = {"ansible_core", "ansible_runner", "galaxy", "python", "python_interpreter", "system", "exclude"}
STEPS = {f"{when}_{what}" for when in ("prepend", "append") for what in ("base", "galaxy", "builder", "final")}


@pytest.fixture(scope="module")
def definition() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "execution-environment.yml").read_text())
    return loaded


def test_its_form(definition: dict[str, Any]) -> None:
    assert definition["version"] == 3
    assert set(definition) <= TOP
    assert set(definition["dependencies"]) <= DEPENDENCIES
    assert set(definition["additional_build_steps"]) <= STEPS
    assert all(isinstance(step, str) for steps in definition["additional_build_steps"].values() for step in steps)
    assert ":" in definition["images"]["base_image"]["name"], "a base image has a tag"


def test_it_has_the_ansible_of_the_lock(definition: dict[str, Any]) -> None:
    locked = re.search(r"^ansible-core==(\S+)", (ROOT / "requirements/control.lock").read_text(), re.M)
    assert locked
    assert definition["dependencies"]["ansible_core"]["package_pip"] == f"ansible-core=={locked[1]}"
    assert re.fullmatch(r"ansible-runner==\d+\.\d+\.\d+", definition["dependencies"]["ansible_runner"]["package_pip"])


def test_what_it_copies_is_what_is_built(definition: dict[str, Any]) -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    archive = f"{galaxy['namespace']}-{galaxy['name']}-{galaxy['version']}.tar.gz"
    sources = [entry["src"] for entry in definition["additional_build_files"]]
    assert sources == ["requirements/control.lock", f"build/{archive}"]
    steps = "\n".join(definition["additional_build_steps"]["append_final"])
    assert f"/usr/share/ktls/{archive}" in steps
    assert "--require-hashes --requirement /usr/share/ktls/control.lock" in steps


def test_it_is_no_part_of_the_collection() -> None:
    assert "execution-environment.yml" in yaml.safe_load((ROOT / "galaxy.yml").read_text())["build_ignore"]
