# SPDX-License-Identifier: Apache-2.0
"""Where playbooks are, and whose settings of Ansible count."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ktls_control import tree
from ktls_control.errors import ControlError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of packages with the collection in it, and an operator without a configuration of Ansible."""
    (tmp_path / "site/ansible_collections/ktls/fleet/playbooks").mkdir(parents=True)
    (tmp_path / "home").mkdir()
    for name in ("ANSIBLE_CONFIG", "ANSIBLE_COLLECTIONS_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "site"


def installed(site: Path) -> tree.Tree:
    return tree.find(site / "nowhere", site)


def test_a_checkout_has_its_own() -> None:
    found = tree.find()
    assert found.environment() == {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    assert found.playbook("off") == ROOT / "playbooks/off.yml"
    assert found.working_directory() == ROOT
    assert tree.log_directory() == Path("build/log")


def test_installed_it_is_beside_the_command(site: Path) -> None:
    found = installed(site)
    assert found.playbook("off") == site / "ansible_collections/ktls/fleet/playbooks/off.yml"
    assert found.working_directory() == Path.cwd()
    environment = found.environment()
    assert environment["ANSIBLE_COLLECTIONS_PATH"].split(":")[0] == str(site)
    assert environment["ANSIBLE_CONFIG"].endswith("ktls_control/ansible.cfg"), "nobody else has one"


def test_an_operators_settings_are_kept(site: Path) -> None:
    (Path.cwd() / "ansible.cfg").write_text("[defaults]\ncollections_path = /opt/collections\n")
    assert installed(site).environment() == {"ANSIBLE_COLLECTIONS_PATH": f"{site}:/opt/collections"}


def test_an_operators_paths_are_kept(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANSIBLE_COLLECTIONS_PATH", "/srv/collections")
    assert installed(site).environment()["ANSIBLE_COLLECTIONS_PATH"] == f"{site}:/srv/collections"


def test_neither_of_both_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="without its playbooks: install the wheel of a release") as caught:
        tree.find(tmp_path, tmp_path)
    assert caught.value.code == "no_collection"


def test_programs_of_ansible_are_those_of_this_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert tree.ansible("playbook") == [str(Path(sys.executable).with_name("ansible-playbook"))]
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python3"))
    assert tree.ansible("playbook") == [str(tmp_path / "python3"), "-m", "ansible", "playbook"]
