# SPDX-License-Identifier: Apache-2.0
"""The collection as a stranger has it: the built archive, installed beside nothing but ``requirements.txt``.

No part of this checkout is on any path, there is no ``ansible.cfg``, the hosts' Python has no packages, and playbooks
are called by their full names. What is fake is behind the hosts' sockets, as in all tests here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ktls_control.drill import record
from ktls_control.rollout import journal, store
from tests import cleanroom
from tests.cleanroom import CleanRoom
from tools import collection

from .conftest import ROOT, Fleet

REQUIREMENTS = ROOT / "requirements.txt"

#: What the fake hosts run as, and all that hosts need.
HOST_PYTHON = "/usr/bin/python3"
SETTINGS = Path(__file__).with_name("waves.yml")


@pytest.fixture(scope="session")
def room(tmp_path_factory: pytest.TempPathFactory) -> CleanRoom:
    """A control node on which the archive was installed."""
    place = tmp_path_factory.mktemp("stranger")
    found = cleanroom.make(place, cleanroom.closure(["ansible-core", *cleanroom.names(REQUIREMENTS)]))
    collection.install(collection.build(place / "archive"), found.home / ".ansible" / "collections")
    return found


@dataclass
class Stranger:
    """Somebody with the collection, and an inventory of fake hosts that are plain local ones to Ansible."""

    room: CleanRoom
    fleet: Fleet
    inventory: Path

    @property
    def installed(self) -> Path:
        """Where the collection is."""
        return self.room.home / ".ansible/collections/ansible_collections/ktls/fleet"

    def playbook(self, verb: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection by its full name."""
        state = {"KTLS_STATE_DIR": str(self.fleet.state_dir), "KTLS_OPERATOR": "ada@control1"}
        given = ("-i", str(self.inventory), f"ktls.fleet.{verb}", *arguments)
        return self.room.run("ansible-playbook", *given, **{**state, **more})

    def runs(self) -> list[store.Run]:
        """Runs that were kept."""
        return store.Fleet(self.place).runs()

    @property
    def place(self) -> Path:
        """Where the state of this fleet is."""
        return self.fleet.state_dir / store.fleet_name(str(self.inventory), "ktls_hosts")


@pytest.fixture
def stranger(room: CleanRoom, fleet: Fleet, tmp_path: Path) -> Iterator[Stranger]:
    """The fake hosts of ``fleet``, as a stranger reaches them."""
    inventory = json.loads(fleet.inventory.read_text())
    found = Stranger(room, fleet, tmp_path / "strange.yml")
    for variables in [host for group in inventory.values() for host in group["hosts"].values()]:
        variables |= {
            "ansible_connection": "local",
            "ansible_become": False,
            "ansible_python_interpreter": HOST_PYTHON,
            "ktls_agent_command": f"{HOST_PYTHON} {found.installed}/agent/ktls.pyz agent",
        }
        variables.pop("fakehost_cut_file", None)
    found.inventory.write_text(json.dumps(inventory))
    yield found


def last(done: subprocess.CompletedProcess[str]) -> str:
    """Everything that was said, for a failure's message."""
    return done.stdout + done.stderr


def phases(stranger: Stranger) -> set[str]:
    return set(stranger.fleet.states().values())


def test_status_rollout_and_off(stranger: Stranger) -> None:
    said = stranger.playbook("status")
    assert said.returncode == 0, said.stdout + said.stderr
    assert "phase userspace" in said.stdout

    done = stranger.playbook("rollout", "-e", "ktls_phase=tx", "-e", f"ktls_waves_file={SETTINGS}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert phases(stranger) == {"tx"}
    (run,) = stranger.runs()
    events = journal.read(run.journal)
    assert [event["wave"] for event in events if event["event"] == "wave_promoted"] == [1, 2, 3]

    off = stranger.playbook("off", "-e", "ktls_off_command=true")
    assert off.returncode == 0, off.stdout + off.stderr
    assert phases(stranger) == {"userspace"}
    for done in (said, off):
        assert "[WARNING]" not in done.stderr, done.stderr


def survey(verb: str, **answers: object) -> tuple[str, str]:
    """What AWX passes for answers to a survey: defaults and answers as extra variables, empty texts included."""
    spec = json.loads((ROOT / "awx" / f"survey-{verb}.json").read_text())["spec"]
    variables = {question["variable"]: question["default"] for question in spec}
    assert set(answers) <= set(variables)
    launched = {"awx_user_name": "ada", "awx_job_id": 7}
    return "-e", json.dumps({**variables, **launched, **answers})


def test_answers_to_the_surveys_of_awx(stranger: Stranger) -> None:
    quick = {"ktls_soak_s": 1, "ktls_soak_max_s": 2, "ktls_soak_min_bytes": 100_000}
    answers = survey("rollout", ktls_phase="tx", ktls_waves="1, 50%, 100%", ktls_group="", **quick)
    done = stranger.playbook("rollout", *answers, KTLS_OPERATOR="")
    assert done.returncode == 0, last(done)
    (run,) = stranger.runs()
    events = journal.read(run.journal)
    assert [event["wave"] for event in events if event["event"] == "wave_promoted"] == [1, 2, 3]
    assert events[0]["operator"] == "ada@awx"

    drilled = stranger.playbook("drill", *survey("drill", ktls_group="", ktls_drill_throttle=2))
    assert drilled.returncode == 2, "an order is in force, and nobody forced it"
    assert phases(stranger) == {"tx"}

    off = stranger.playbook("off", *survey("off", ktls_group="", ktls_off_reason=""), "-e", "ktls_off_command=true")
    assert off.returncode == 0, last(off)
    assert phases(stranger) == {"userspace"}
    assert {request["reason"] for request in stranger.fleet.requests("web1", "off")} == {"off.yml"}


@pytest.mark.parametrize("fleet", [2], indirect=True)
def test_preflight_and_drill(stranger: Stranger) -> None:
    asked = ("-e", "ktls_phase=userspace", "-e", "ktls_preflight_load_module=false")
    seen = stranger.playbook("preflight", *asked)
    assert seen.returncode == 0, last(seen)
    assert "2 of 2 hosts ready for userspace" in seen.stdout

    # Behind a fake agent is no kernel TLS, and the drill finds that out, on the host and by its own reading.
    drilled = stranger.playbook("drill", "-e", "ktls_drill_keyupdate=false")
    assert drilled.returncode == 2, last(drilled)
    assert {one["code"] for one in record.load(stranger.place).values()} == {"drill_enable"}


@pytest.mark.parametrize("fleet", [1], indirect=True)
def test_what_sets_hosts_up_works_out_what_it_would_do(stranger: Stranger, tmp_path: Path) -> None:
    """In check mode: the host is this machine."""
    authority, asked = stranger.room.home / "ca", tmp_path / "asked"
    python = ("-e", f"ansible_python_interpreter={python_beside_a_fake_systemd(tmp_path, asked)}")
    deploy = stranger.playbook(
        "deploy", "--check", "-e", "ktls_host_phase=userspace", "-e", "ktls_host_report_only=true",
        "-e", f"ktls_sidecar_ca_dir={authority}", *python,
    )  # fmt: skip
    assert deploy.returncode == 0, last(deploy)
    assert "TASK [ktls.fleet.ktls_sidecar : Install and start the sidecar]" in deploy.stdout
    assert not authority.exists(), "check mode makes no authority"

    flags = {
        "ktls_pull_fleet": "strangers",
        "ktls_pull_endpoints": ["https://flags.example.org/ktls.flag"],
        "ktls_pull_signers": [{"key": PUBLIC_KEY}],
    }
    pull = stranger.playbook("pull", "--check", "-e", json.dumps(flags), *python)
    assert pull.returncode == 0, last(pull)

    sentinel = stranger.playbook("sentinel", "--check", "-e", "ktls_sentinel_interface=lo", *python)
    assert sentinel.returncode == 0, last(sentinel)
    undeploy = stranger.playbook("undeploy", "--check", "-e", "ktls_undeploy_ok=true", *python)
    assert undeploy.returncode == 0, last(undeploy)

    verbs = {line.split()[0] for line in asked.read_text().splitlines()}
    assert verbs == {"show", "list-units"}, "systemd was only asked"


def python_beside_a_fake_systemd(directory: Path, asked: Path) -> Path:
    """An interpreter for modules that sees another ``systemctl``, which knows no unit: systemd need not run here.

    By a mount of its own, for what runs on hosts looks for programs in the system's directories only.
    """
    fake, python = directory / "systemctl", directory / "python"
    fake.write_text(f'#!/bin/sh\necho "$@" >>{asked}\n')
    user = "" if os.geteuid() == 0 else "--user --map-root-user"
    python.write_text(
        f"#!/bin/sh\nexec unshare {user} --mount sh -c "
        f'\'mount --bind {fake} /usr/bin/systemctl && exec {HOST_PYTHON} "$@"\' python "$@"\n'
    )
    for program in (fake, python):
        program.chmod(0o755)
    return python


PUBLIC_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE8hDtMLxVUkEQjY8g9pGmXZsdT0xU4rGtdL6yjYp1VF ada@control1"


def test_a_missing_package_is_named_before_any_host_is_touched(
    fleet: Fleet, stranger: Stranger, tmp_path: Path
) -> None:
    bare = cleanroom.make(tmp_path / "bare", cleanroom.closure(["ansible-core"]))
    (bare.home / ".ansible").symlink_to(stranger.room.home / ".ansible")
    poor = Stranger(bare, fleet, stranger.inventory)
    done = poor.playbook("rollout", "-e", "ktls_phase=tx", "-e", f"ktls_waves_file={SETTINGS}")
    assert done.returncode == 2
    says = f"this control node lacks numpy and scipy, which judge its waves: {bare.python} -m pip install -r "
    assert says in done.stdout + done.stderr
    assert all(fleet.requests(name) == [] for name in fleet.names)
    off = poor.playbook("off", "-e", "ktls_off_command=true")
    assert off.returncode == 0, last(off)
    assert all(fleet.requests(name, "off") for name in fleet.names), "off needs nothing but Ansible"


def test_a_collection_from_the_checkout_builds_the_release_or_says_what_for(room: CleanRoom, tmp_path: Path) -> None:
    """As from ``ansible-galaxy collection install git+https://...``: there are sources, and no h11."""
    subprocess.run(
        [sys.executable, "-m", "ansible", "galaxy", "collection", "build", "--output-path", str(tmp_path), str(ROOT)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    (built,) = tmp_path.glob("*.tar.gz")
    place = collection.install(built, tmp_path / "collections")
    (place / "agent").chmod(0o555)
    asked = tmp_path / "play.yml"
    asked.write_text(
        "- hosts: localhost\n  connection: local\n  gather_facts: false\n  tasks:\n"
        "    - ktls.fleet.ktls_release: {components: [agent], agent_config: {}}\n      check_mode: true\n"
    )
    paths = {"ANSIBLE_COLLECTIONS_PATH": str(tmp_path / "collections"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = room.run("ansible-playbook", "-i", "localhost,", str(asked), **paths)
    assert done.returncode == 2
    says = f"h11 is not installed in {room.directory}/venv; {room.python} -m pip install --require-hashes -r {place}/"
    assert says in done.stdout + done.stderr, last(done)

    rich = cleanroom.make(tmp_path / "rich", cleanroom.closure(["ansible-core", "h11"]))
    done = rich.run("ansible-playbook", "-i", "localhost,", str(asked), **paths)
    assert "could not be made" not in done.stdout + done.stderr, last(done)
    assert list((tmp_path / "cache").rglob("ktls.pyz")), "built beside nobody's collection"


def test_defaults_for_a_group_of_modules(stranger: Stranger, tmp_path: Path) -> None:
    play = tmp_path / "play.yml"
    socket = stranger.fleet.directory / "web3" / "agent.sock"
    play.write_text(
        "- hosts: web1\n  gather_facts: false\n  module_defaults:\n"
        f"    group/ktls.fleet.agent: {{socket: {socket}}}\n  tasks:\n"
        "    - ktls.fleet.ktls_order: {state: observed}\n"
    )
    done = stranger.room.run("ansible-playbook", "-i", str(stranger.inventory), str(play))
    assert done.returncode == 0, last(done)
    assert (stranger.fleet.requests("web1"), len(stranger.fleet.requests("web3"))) == ([], 1)
