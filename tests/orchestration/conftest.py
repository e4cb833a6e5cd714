# SPDX-License-Identifier: Apache-2.0
"""A fleet of fake local hosts, and playbooks run over it as an operator runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from . import fakefleet

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Fleet:
    """Fake hosts under a directory; see ``fakefleet.py`` for their faults."""

    directory: Path
    names: list[str]
    inventory: Path

    def fault(self, host: str, name: str) -> None:
        """Switch a fault on."""
        if name == "cut":
            fakefleet.cut(self.directory / host)
        else:
            (self.directory / host / name).touch()

    def heal(self, host: str) -> None:
        """The host can be reached again."""
        fakefleet.heal(self.directory / host)

    def requests(self, host: str, verb: str | None = None) -> list[dict[str, Any]]:
        """What the control side asked of a host, in order."""
        log = self.directory / host / "requests.jsonl"
        lines = log.read_text().splitlines() if log.exists() else []
        asked = [json.loads(line) for line in lines]
        return [request for request in asked if verb in (None, request["verb"])]

    def states(self) -> dict[str, str]:
        """Phase in force by host, asked of the fake agents themselves."""
        return {name: self.peek(name)["phase"] for name in self.names}

    def peek(self, host: str) -> dict[str, Any]:
        """The status of a fake agent, cut off or not; unlike a question of the control side it brings no traffic."""
        from ktls_host.jsonsock import call

        place = self.directory / host
        path = place / ("cut.sock" if (place / "cut.sock").exists() else "agent.sock")
        return call(str(path), {"verb": "peek"})

    @property
    def state_dir(self) -> Path:
        """Where runs are kept."""
        return self.inventory.parent / "state"

    def environment(self) -> dict[str, str]:
        """See :func:`environment`; with a state directory of the test's own."""
        return {**environment(), "KTLS_STATE_DIR": str(self.state_dir), "KTLS_OPERATOR": "ada@control1"}

    def playbook(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook with plain ``ansible-playbook``."""
        return subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                "-i",
                str(self.inventory),
                str(ROOT / "playbooks" / f"{verb}.yml"),
                *arguments,
            ],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self.environment(),
            timeout=240,
            check=False,
        )

    def ktls(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the ``ktls`` command."""
        return subprocess.run(
            [str(Path(sys.executable).with_name("ktls")), *arguments],
            capture_output=True,
            text=True,
            cwd=self.directory,
            env=self.environment(),
            timeout=240,
            check=False,
        )


def environment() -> dict[str, str]:
    """The project's own Ansible configuration, plus the connection that can be cut."""
    return {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_CONNECTION_PLUGINS": str(Path(__file__).parent / "connection"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
    }


@pytest.fixture
def fleet(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Fleet]:
    """Four fake hosts; ask for another number with ``@pytest.mark.parametrize("fleet", [N], indirect=True)``."""
    yield from _fleet(tmp_path, getattr(request, "param", 4))


def _fleet(tmp_path: Path, count: int) -> Iterator[Fleet]:
    names = [f"web{number}" for number in range(1, count + 1)]
    # Unix socket paths are short; a test's own directory may be deep.
    directory = Path(f"/tmp/ktls-fake-{os.getpid()}-{tmp_path.name[-20:]}")
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(json.dumps(_inventory(directory, names)))
    with subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("fakefleet.py")), str(directory), *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Fleet(directory, names, inventory)
        process.communicate(timeout=10)
    for path in sorted(directory.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    directory.rmdir()


def _inventory(directory: Path, names: Sequence[str]) -> dict[str, Any]:
    return {
        "ktls_hosts": {
            "hosts": {
                name: {
                    "ansible_connection": "fakehost",
                    "fakehost_cut_file": str(directory / name / "cut"),
                    "ansible_python_interpreter": sys.executable,
                    "ansible_user": "root",
                    "ansible_become": False,
                    "ktls_reach": "socket",
                    "ktls_agent_socket": str(directory / name / "agent.sock"),
                }
                for name in names
            }
        }
    }
