# SPDX-License-Identifier: Apache-2.0
"""The modules' documentation is complete and is about the arguments that they really take."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
ALL = sorted(path.stem for path in (ROOT / "library").glob("ktls_*.py"))
# The others document an action plugin of the same name and hold no code.
MODULES = [name for name in ALL if "def main" in (ROOT / "library" / f"{name}.py").read_text()]
ACTIONS = [name for name in ALL if name not in MODULES]


class Captured(Exception):  # noqa: N818 - carries a value, is no error
    """Stops a module at the point where it has declared its arguments."""


def load(name: str) -> Any:
    return importlib.import_module(f"ansible_collections.ktls.fleet.plugins.modules.{name}")


def declared(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the module passes to AnsibleModule."""
    module = load(name)
    seen: dict[str, Any] = {}

    def capture(**options: Any) -> None:
        seen.update(options)
        raise Captured

    monkeypatch.setattr(module, "AnsibleModule", capture)
    with pytest.raises(Captured):
        module.main()
    return seen


def documentation(name: str) -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load(load(name).DOCUMENTATION)
    return parsed


def test_there_are_modules() -> None:
    assert {"ktls_module", "ktls_info", "ktls_order", "ktls_release"} < set(MODULES)
    assert ACTIONS == ["ktls_certificate", "ktls_request", "ktls_rollout", "ktls_wave"]


@pytest.mark.parametrize("name", MODULES)
def test_options_are_the_arguments(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = declared(name, monkeypatch)["argument_spec"]
    options = documentation(name)["options"]
    assert set(options) == set(spec)
    for option, documented in options.items():
        for key in ("type", "default", "choices", "elements", "required"):
            assert documented.get(key) == spec[option].get(key), (option, key)
        assert documented["description"]


@pytest.mark.parametrize("name", ACTIONS)
def test_options_are_the_arguments_of_the_action(name: str) -> None:
    action = importlib.import_module(f"ansible_collections.ktls.fleet.plugins.action.{name}")
    options = documentation(name)["options"]
    assert set(options) == set(action._ARGUMENTS)
    for option, documented in options.items():
        argument = action._ARGUMENTS[option]
        for key in ("type", "default", "elements", "required"):
            assert documented.get(key) == argument.get(key), (option, key)
        assert set(documented.get("choices", [])) == set(argument.get("choices", [])), option


@pytest.mark.parametrize("name", MODULES)
def test_attributes_are_promised_and_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    attributes = documentation(name)["attributes"]
    assert set(attributes) == {"check_mode", "diff_mode", "platform"}
    check = declared(name, monkeypatch).get("supports_check_mode", False)
    assert attributes["check_mode"]["support"] == ("full" if check else "none")


@pytest.mark.parametrize("name", ALL)
def test_description_examples_and_return(name: str) -> None:
    module, documented = load(name), documentation(name)
    assert documented["module"] == name
    assert documented["short_description"] and not documented["short_description"].endswith(".")
    tasks = yaml.safe_load(module.EXAMPLES)
    used = [task[f"ktls.fleet.{name}"] or {} for task in tasks if f"ktls.fleet.{name}" in task]
    assert used, "no example uses the module by its full name"
    for arguments in used:
        assert set(arguments) <= set(documented["options"])
    for key, value in yaml.safe_load(module.RETURN).items():
        assert {"description", "returned", "type"} <= set(value), key
        assert "sample" in value or "contains" in value, key


@pytest.mark.parametrize("name", ALL)
def test_no_choice_is_an_unquoted_switch(name: str) -> None:
    """YAML 1.1 reads a bare off as false, and then the real word is refused."""
    for option in documentation(name)["options"].values():
        assert all(isinstance(choice, str) for choice in option.get("choices", []))


def test_ansible_doc_reads_them_all() -> None:
    command = [str(Path(sys.executable).with_name("ansible-doc")), "--json", "-t", "module"]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(ROOT / "collections"), "NO_COLOR": "1"}
    environment.pop("ANSIBLE_CONFIG", None)
    names = [f"ktls.fleet.{name}" for name in ALL]
    done = subprocess.run(
        [*command, *names], capture_output=True, text=True, env=environment, cwd=ROOT / "tests", check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(names)
    assert all(found[name]["doc"]["options"] is not None for name in names)


def test_collection_metadata() -> None:
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    assert (galaxy["namespace"], galaxy["name"]) == ("ktls", "fleet")
    assert yaml.safe_load((ROOT / "meta" / "runtime.yml").read_text())["requires_ansible"] == ">=2.19.0"
    # A link to the tree itself inside the tarball would be endless.
    assert {"collections", ".venv", "build", ".cache", "tests", "lab"} <= set(galaxy["build_ignore"])


def test_links_lead_to_the_real_code() -> None:
    assert (ROOT / "plugins/modules").resolve() == ROOT / "library"
    assert (ROOT / "plugins/module_utils/ktls_host").resolve() == ROOT / "agent/ktls_host"
    assert not (ROOT / "library").is_symlink()


def test_modules_are_thin() -> None:
    """Logic belongs to ktls_host, where the agent finds it too."""
    for name in MODULES:
        text = (ROOT / "library" / f"{name}.py").read_text()
        code = text.partition("RETURN = ")[2].partition('"""\n')[2].partition('"""\n')[2]
        assert 0 < len(code.splitlines()) < 100, name
