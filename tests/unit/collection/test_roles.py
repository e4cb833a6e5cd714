# SPDX-License-Identifier: Apache-2.0
"""Every role: its options, defaults, tasks, README and examples are about the same variables.

The last tests break a role on purpose, one thing at a time, so that this check is known to see it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests import rolefiles
from tools import role_readmes

ROOT = Path(__file__).resolve().parents[3]
ROLES = rolefiles.names()


def test_there_are_roles() -> None:
    assert {"ktls_host", "ktls_agent", "ktls_sidecar", "ktls_policy", "ktls_offload", "ktls_pull"} < set(ROLES)
    assert role_readmes.names() == ROLES


@pytest.mark.parametrize("role", ROLES)
def test_options_defaults_tasks_and_readme_agree(role: str) -> None:
    assert rolefiles.problems(rolefiles.ROLES / role) == []


@pytest.mark.parametrize("role", ROLES)
def test_what_is_generated_in_the_readme_is_current(role: str) -> None:
    page = rolefiles.ROLES / role / "README.md"
    assert role_readmes.generate(role, page.read_text()) == page.read_text(), "run python -m tools.role_readmes"


@pytest.mark.parametrize("role", ROLES)
def test_it_says_who_it_is(role: str) -> None:
    spec = rolefiles.read(role, "meta/argument_specs.yml")["argument_specs"]["main"]
    told = {"short_description", "description", "author", "version_added", "examples"}
    assert told <= set(spec) <= told | {"options", "seealso"}
    assert all(spec[key] for key in told)
    assert not spec["short_description"].endswith(".")
    assert re.fullmatch(r"\d+\.\d+\.\d+", spec["version_added"])
    about = rolefiles.read(role, "meta/main.yml")
    requires = yaml.safe_load((ROOT / "meta/runtime.yml").read_text())["requires_ansible"]
    assert f">={about['galaxy_info']['min_ansible_version']}" in requires
    assert about["galaxy_info"]["license"] == "Apache-2.0"
    assert about["dependencies"] == []


@pytest.mark.parametrize("role", ROLES)
def test_its_readme_names_no_variable_that_there_is_not(role: str) -> None:
    known = {
        name
        for place in ("roles/*/*/*.yml", "playbooks/*.yml", "playbooks/vars/*.yml")
        for path in ROOT.glob(place)
        for name in re.findall(r"\bktls_\w+", path.read_text())
    } | {path.stem for path in (ROOT / "library").glob("*.py")}
    named = set(re.findall(r"\bktls_\w+", (rolefiles.ROLES / role / "README.md").read_text()))
    assert named - known - set(ROLES) - {"ktls_hosts", "ktls_sentinels"} == set()


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A copy of all roles; the test breaks that of the sidecar."""
    shutil.copytree(rolefiles.ROLES, tmp_path / "roles")
    role = tmp_path / "roles" / "ktls_sidecar"
    assert rolefiles.problems(role) == []
    return role


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("defaults/main.yml", "ktls_sidecar_port: 8443", "ktls_sidecar_port: 8444", "documented default 8443"),
        ("defaults/main.yml", "ktls_sidecar_port: 8443", "ktls_sidecar_port: 8443\nktls_sidecar_x: 1", "is no option"),
        ("defaults/main.yml", "ktls_sidecar_port: 8443\n", "", "ktls_sidecar_port has no default"),
        ("meta/argument_specs.yml", "type: int\n        default: 8443", "type: bool\n        default: 8443", "no int"),
        ("meta/argument_specs.yml", "default: 8443", "default: eight", "documented default 'eight'"),
        ("meta/argument_specs.yml", "type: int\n        default: 8443", "type: int", "is not documented"),
        (
            "meta/argument_specs.yml",
            "ktls_sidecar_root:\n        desc",
            "ktls_sidecar_rooot:\n        desc",
            "is no option",
        ),
        ("tasks/main.yml", "{{ ktls_sidecar_root }}", "/srv", "ktls_sidecar_root is an option that no task uses"),
        ("tasks/main.yml", "{{ ktls_sidecar_root }}", "{{ ktls_sidecar_dir }}", "ktls_sidecar_dir is used and is no"),
        ("README.md", "| `ktls_sidecar_root` | path", "| `ktls_sidecar_dir` | path", "ktls_sidecar_dir is no option"),
        ("README.md", "| int | `8443`", "| int | `8444`", "the default of ktls_sidecar_port is 8443"),
        ("README.md", "| int | `8443`", "| str | `8443`", "ktls_sidecar_port is no str"),
        ("README.md", "| `ktls_sidecar_certificates[].key`", "| `ktls_sidecar_certificates[].k`", "[].key is not in"),
        ("README.md", "## Consent", "## Questions", "it needs the headings"),
        ("README.md", "ktls_sidecar_ca_dir: /var", "ktls_sidecar_cadir: /var", "gives ktls_sidecar_cadir, which is no"),
        ("README.md", "ktls.fleet.ktls_sidecar", "ktls.fleet.ktls_side", "ktls.fleet.ktls_side, which there is not"),
        ("README.md", "idle_timeout_s: 30", "- idle_timeout_s", "an example is not valid"),
    ],
)
def test_the_check_sees_what_is_wrong(broken: Path, file: str, old: str, new: str, says: str) -> None:
    path = broken / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    assert [problem for problem in rolefiles.problems(broken) if says in problem], rolefiles.problems(broken)


def test_a_switch_is_a_boolean_however_it_was_given(broken: Path) -> None:
    role = broken.with_name("ktls_policy")
    tasks = role / "tasks/main.yml"
    tasks.write_text(tasks.read_text().replace("ktls_policy_restart_ok | bool", "ktls_policy_restart_ok"))
    assert "main.yml: ktls_policy_restart_ok without `| bool`" in rolefiles.problems(role)


def test_a_consent_is_explained(broken: Path) -> None:
    role = broken.with_name("ktls_policy")
    page = role / "README.md"
    page.write_text(page.read_text().replace("without `ktls_policy_restart_ok: true`", "without consent"))
    assert "README.md: under Consent there is nothing of ktls_policy_restart_ok" in rolefiles.problems(role)


def test_a_role_without_a_readme_is_told_so(broken: Path) -> None:
    (broken / "README.md").unlink()
    assert rolefiles.problems(broken) == ["there is no README.md"]
