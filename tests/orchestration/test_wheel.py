# SPDX-License-Identifier: Apache-2.0
"""``pip install``: the command, and with it the playbooks, roles and release that it drives.

The wheel is built from a copy of what is in the repository, and unpacked into a virtual environment that has what the
lock names and nothing of this checkout.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests import cleanroom
from tests.cleanroom import CleanRoom

from .conftest import ROOT, Fleet

LEFT_OUT = shutil.ignore_patterns(".venv", ".git", "build", ".cache", "__pycache__", "*.egg-info", ".*_cache")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel."""
    place = tmp_path_factory.mktemp("wheel")
    # Not in the checkout: setuptools writes into its build/ and beside its sources.
    shutil.copytree(ROOT, place / "copy", symlinks=True, ignore=LEFT_OUT)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation",
         "--wheel-dir", str(place), str(place / "copy")], check=True, capture_output=True, text=True,
    )  # fmt: skip
    (built,) = place.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def room(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> CleanRoom:
    """A control node on which it was installed with what it depends on."""
    lock = cleanroom.names(ROOT / "requirements" / "control.lock")
    found = cleanroom.make(tmp_path_factory.mktemp("installed"), lock)
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(found.python), "install", "--quiet", "--no-deps", "--no-index",
         str(wheel)], check=True, capture_output=True, text=True,
    )  # fmt: skip
    return found


@pytest.fixture
def inventory(fleet: Fleet, tmp_path: Path) -> Iterator[Path]:
    """The fake hosts, as local ones, with what is installed on control nodes left out of account."""
    loaded = json.loads(fleet.inventory.read_text())
    for variables in loaded["ktls_hosts"]["hosts"].values():
        variables |= {"ansible_connection": "local", "ansible_python_interpreter": "/usr/bin/python3"}
        del variables["fakehost_cut_file"]
    path = tmp_path / "strange.yml"
    path.write_text(json.dumps(loaded))
    yield path


def test_what_is_in_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        names = opened.namelist()
        settings = opened.read("ktls_control/ansible.cfg").decode()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "ansible_collections", "ktls_control", "ktls_host"
    }  # fmt: skip
    assert {"/".join(name.split("/")[:3]) for name in names if name.startswith("ansible")} == {
        "ansible_collections/ktls/fleet"
    }
    assert "ansible_collections/ktls/fleet/agent/ktls.pyz" in names
    assert "ansible_collections/ktls/fleet/MANIFEST.json" in names
    assert "ktls_control/templates/off_host.sh" in names
    assert "pipelining = True" in settings
    assert not re.search(r"roles_path|library|collections_path|inventory\b", settings), "that is about the checkout"


def test_what_it_requires_is_in_the_lock(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        metadata = opened.read(next(name for name in opened.namelist() if name.endswith("/METADATA"))).decode()
    required = re.findall(r"^Requires-Dist: ([\w-]+)", metadata, re.MULTILINE)
    assert set(required) <= set(cleanroom.names(ROOT / "requirements" / "control.lock"))


def test_the_command_and_the_collection_are_of_one_version(room: CleanRoom) -> None:
    assert room.run("ktls", "--help").returncode == 0
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    assert f"ktls {version}" in room.run("ktls", "--version").stdout
    listed = room.run("ansible-galaxy", "collection", "list", "ktls.fleet", "--format", "json")
    assert listed.returncode == 0, listed.stderr
    assert [found["ktls.fleet"]["version"] for found in json.loads(listed.stdout).values()] == [version]
    shown = room.run("ansible-doc", "-t", "role", "ktls.fleet.ktls_agent")
    assert shown.returncode == 0, shown.stderr


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_verbs_find_their_playbooks_and_what_is_in_them(room: CleanRoom, fleet: Fleet, inventory: Path) -> None:
    state = {"KTLS_STATE_DIR": str(fleet.state_dir)}
    asked = ("-i", str(inventory), "--phase", "userspace")
    ready = room.run("ktls", "preflight", *asked, "--read-only", "--json", **state)
    assert ready.returncode == 0, ready.stderr
    assert json.loads(ready.stdout)["ready"] == 2

    # Nobody has drilled these hosts: a plan that says so has asked them, and read what is on record.
    planned = room.run("ktls", "plan", *asked, "--read-only", "-o", "plan.yml", **state)
    assert planned.returncode == 1, planned.stdout + planned.stderr
    assert "web[1-2]" in planned.stdout, planned.stdout + planned.stderr

    waves = Path(__file__).with_name("waves.yml")
    done = room.run("ktls", "rollout", "-i", str(inventory), "--phase", "tx", "--waves", str(waves), **state)
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(fleet.states().values()) == {"tx"}
    assert list((fleet.state_dir / "log").glob("*-rollout.log")), "Ansible's own output lies beside the state"
    assert not (room.home / "build").exists(), "and not wherever one happens to be"


def test_an_older_collection_of_the_operators_is_not_taken(room: CleanRoom, fleet: Fleet, inventory: Path) -> None:
    """Where somebody has installed one with ``ansible-galaxy``: command and playbooks belong together."""
    older = room.home / ".ansible/collections/ansible_collections/ktls/fleet/playbooks"
    older.mkdir(parents=True)
    try:
        (older / "preflight.yml").write_text("- hosts: localhost\n  tasks: [{ansible.builtin.fail: {msg: older}}]\n")
        done = room.run("ktls", "preflight", "-i", str(inventory), "--phase", "userspace", "--read-only")
        assert done.returncode == 0, done.stdout + done.stderr
    finally:
        shutil.rmtree(room.home / ".ansible/collections")


@pytest.mark.parametrize("arguments", [("lab", "up", "--hosts", "3"), ("lab",), ("demo",)])
def test_what_needs_a_checkout_says_so_in_one_line(room: CleanRoom, arguments: tuple[str, ...]) -> None:
    done = room.run("ktls", *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith(
        "ktls: the lab is not part of an installed ktls: clone the repository, run `make prepare`"
    )
    assert len(done.stderr.splitlines()) == 1


def test_without_its_playbooks_it_says_what_to_install(room: CleanRoom, inventory: Path) -> None:
    """As in a copy by hand."""
    away = room.site / "ansible_collections"
    away.rename(away.with_name("away"))
    try:
        done = room.run("ktls", "deploy", "-i", str(inventory))
    finally:
        away.with_name("away").rename(away)
    assert done.returncode == 1
    says = f"ktls: {room.site}: ktls was installed without its playbooks: install the wheel of a release"
    assert done.stderr.startswith(says)
