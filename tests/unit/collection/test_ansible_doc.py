# SPDX-License-Identifier: Apache-2.0
"""What ``ansible-doc`` says of the installed archive: everything that is in it, with types, values and valid examples.

That options are the arguments that the code takes is in ``tests/unit/library/test_documentation.py``, that those of
roles are their defaults in ``test_roles.py``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from tests import rolefiles

ROOT = Path(__file__).resolve().parents[3]
MODULES = sorted(path.stem for path in (ROOT / "library").glob("ktls_*.py"))
FILTERS = sorted(path.stem for path in (ROOT / "plugins/filter").glob("ktls_*.yml"))
TYPES = {"str", "bool", "int", "float", "list", "dict", "path", "raw"}
DUMP = ("doc", "--metadata-dump", "--no-fail-on-errors", "ktls.fleet")

Dump = dict[str, dict[str, Any]]


def ansible(installed: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of Ansible that finds the archive and nothing of the checkout."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return subprocess.run(
        [sys.executable, "-m", "ansible", *arguments], capture_output=True, text=True, check=False,
        cwd=installed, env={**kept, "ANSIBLE_COLLECTIONS_PATH": str(installed.parents[1].parent), "NO_COLOR": "1"},
    )  # fmt: skip


@pytest.fixture(scope="session")
def dump(installed: Path) -> Dump:
    """Everything that ``ansible-doc`` knows, by type and full name."""
    done = ansible(installed, *DUMP)
    assert done.returncode == 0, done.stderr
    loaded: Dump = json.loads(done.stdout)["all"]
    return loaded


def full(names: list[str]) -> set[str]:
    return {f"ktls.fleet.{name}" for name in names}


def test_everything_is_documented_and_nothing_else_is(dump: Dump) -> None:
    assert set(dump["module"]) == full(MODULES)
    assert set(dump["role"]) == full(rolefiles.names())
    assert set(dump["filter"]) == full(FILTERS)
    assert set(dump["callback"]) == full([path.stem for path in (ROOT / "plugins/callback").glob("ktls_*.py")])
    others = {kind for kind, found in dump.items() if found} - {"keyword"}
    assert others == {"module", "role", "filter", "callback"}
    broken = [name for kind in others for name, found in dump[kind].items() if "error" in found]
    assert broken == []


def test_every_filter_that_there_is_has_its_page() -> None:
    from ansible_collections.ktls.fleet.plugins.filter import ktls

    assert sorted(ktls.FilterModule().filters()) == FILTERS


def options(found: Mapping[str, Any], within: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, option in (found or {}).items():
        yield f"{within}{name}", option
        yield from options(option.get("suboptions") or option.get("options") or {}, f"{within}{name}.")


def test_every_option_has_a_type_and_a_description(dump: Dump) -> None:
    for kind in ("module", "filter", "callback"):
        for plugin, found in dump[kind].items():
            check_options(plugin, found["doc"].get("options") or {})
            assert found["doc"]["version_added"] and found["doc"]["author"], plugin
    for role, found in dump["role"].items():
        check_options(role, found["entry_points"]["main"]["options"])


def check_options(plugin: str, found: Mapping[str, Any]) -> None:
    for name, option in options(found):
        assert option.get("type") in TYPES, (plugin, name)
        assert option["type"] != "list" or option.get("elements") in TYPES, (plugin, name)
        assert option.get("description"), (plugin, name)


def returned(found: Mapping[str, Any], within: str = "", sample: object = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Documented values by name, those in others too. What the sample of a whole shows of a part is a sample of it."""
    for name, value in (found or {}).items():
        own = {"sample": sample[name]} if isinstance(sample, dict) and name in sample else {}
        yield f"{within}{name}", {**own, **value}
        whole = value.get("sample")
        first = next(iter(whole), None) if isinstance(whole, list) else whole
        yield from returned(value.get("contains") or {}, f"{within}{name}.", first)


def test_every_return_value_has_a_type_and_a_sample_of_it(dump: Dump) -> None:
    python: dict[str, Any] = {"str": str, "bool": bool, "int": int, "float": (int, float), "list": list, "dict": dict}
    for plugin, found in {**dump["module"], **dump["filter"]}.items():
        assert found["return"], plugin
        for name, value in returned(found["return"]):
            assert value.get("type") in TYPES and value.get("description"), (plugin, name)
            assert "sample" in value or "contains" in value, (plugin, name)
            sample = value.get("sample")
            assert sample is None or isinstance(sample, python[value["type"]]), (plugin, name, sample)


def argument(option: Mapping[str, Any]) -> dict[str, Any]:
    """A documented option as an argument of a module."""
    kept = {key: option[key] for key in ("type", "elements", "choices", "required", "default") if key in option}
    if option.get("suboptions"):
        kept["options"] = {name: argument(part) for name, part in option["suboptions"].items()}
    return kept


def tasks(text: str) -> list[dict[str, Any]]:
    loaded = yaml.safe_load(text)
    assert isinstance(loaded, list), text
    return loaded


def test_examples_give_modules_what_they_take(dump: Dump) -> None:
    specs = {
        name: {option: argument(part) for option, part in found["doc"]["options"].items()}
        for name, found in dump["module"].items()
    }
    used = set()
    for plugin, found in {**dump["module"], **dump["filter"]}.items():
        for task in tasks(found["examples"]):
            assert task["name"][0].isupper(), (plugin, task)
            for key in (key for key in task if key.startswith("ktls")):
                assert key in specs, f"{plugin}: {key} is no full name of a module"
                used.add(key)
                given = {name: value for name, value in (task[key] or {}).items() if "{{" not in str(value)}
                spec = {
                    name: part for name, part in specs[key].items() if name not in (task[key] or {}) or name in given
                }
                assert ArgumentSpecValidator(spec).validate(given).error_messages == [], (plugin, task)
    assert used == set(specs), "a module without an example of its own"


def test_examples_are_plays_that_ansible_can_read(dump: Dump, installed: Path, tmp_path: Path) -> None:
    plays: list[Any] = [
        {
            "name": f"Examples of {plugin}",
            "hosts": "localhost",
            "gather_facts": False,
            "tasks": tasks(found["examples"]),
        }
        for plugin, found in {**dump["module"], **dump["filter"]}.items()
    ]
    for found in dump["role"].values():
        plays += tasks(found["entry_points"]["main"]["examples"])
    playbook = tmp_path / "examples.yml"
    playbook.write_text(yaml.safe_dump(plays, sort_keys=False))
    done = ansible(installed, "playbook", "--syntax-check", "-i", "localhost,", str(playbook))
    assert done.returncode == 0, done.stderr
    assert "couldn't resolve" not in done.stderr


def test_filters_give_what_their_pages_show(dump: Dump) -> None:
    """As far as it takes no fleet."""
    from ansible_collections.ktls.fleet.plugins.filter import ktls

    sample = dump["filter"]["ktls.fleet.ktls_listen"]["return"]["_value"]["sample"]
    assert ktls.ktls_listen(["0.0.0.0", "::"], 8443) == sample
    reason = {
        "code": "tls_module_missing",
        "message": "kernel 6.8.0 has no module tls",
        "cure": "install a kernel that has it",
    }
    assert ktls.ktls_reason(reason) == dump["filter"]["ktls.fleet.ktls_reason"]["return"]["_value"]["sample"]
    for plugin, found in dump["filter"].items():
        positional = re.split(r",\s*", found["doc"].get("positional") or "_input")
        assert set(positional) == set(found["doc"]["options"]), plugin
        assert f"{plugin}" in found["examples"]


def test_what_is_linked_to_is_there(dump: Dump) -> None:
    for plugin, found in {**dump["module"], **dump["filter"]}.items():
        for link in found["doc"].get("seealso") or ():
            assert link["module"] in dump["module"], plugin
        for name in re.findall(r"\bM\(([^)]+)\)", json.dumps(found["doc"])):
            assert name in dump["module"], (plugin, name)
