# SPDX-License-Identifier: Apache-2.0
"""A fleet of fake local hosts, and playbooks run over it as an operator runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ktls_control.plan import datapaths
from ktls_control.plan import file as plan_file
from ktls_control.plan.model import Gates, Plan, PlannedHost, Soak, Wave
from ktls_control.rollout import journal, store
from ktls_host.drift import facts

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

    def plan(self, *sizes: int, approve: Sequence[int] = (), **changes: Any) -> Path:
        """A plan over the first hosts, in waves of these sizes."""
        names = self.names[: sum(sizes)]
        waves, left = [], list(names)
        for number, size in enumerate(sizes, 1):
            soak = changes.get("soak", Soak(0.2, 0.5, 0, 100_000))
            waves.append(Wave(number, f"wave {number}", tuple(left[:size]), soak, approve=number in approve))
            left = left[size:]
        sidecar = {"kernel": "6.12.0-fake", "openssl": "3.5.0", "agent": "fake", "sidecar": "fake"}
        path = self.inventory.parent / "plan.yml"
        plan_file.save(
            Plan(
                version=plan_file.VERSION, id=changes.get("id", "test"), created="2026-11-26T00:00:00Z",
                phase=changes.get("phase", "tx"),
                inventory=str(self.inventory), group="ktls_hosts", limit=None,
                fleet=store.fleet_name(str(self.inventory), "ktls_hosts"), epoch_floor=0,
                lease_s=changes.get("lease_s", 60.0), failure_budget=changes.get("failure_budget", 0),
                hosts={name: self._planned(name, sidecar) for name in names}, refused={}, waves=tuple(waves),
                gates=changes.get("gates", Gates(method="none", on_inconclusive="fail")),
                hardware=changes.get("hardware"), earlier=changes.get("earlier", "revert"),
            ),
            path,
        )  # fmt: skip
        return path

    def _planned(self, name: str, known: dict[str, str]) -> PlannedHost:
        if not (self.directory / name / "datapath.json").exists():
            return PlannedHost(known)
        status = self.peek(name)
        return PlannedHost(facts(status), datapath=datapaths.of_status(status))

    def serve(self, host: str, about: dict[str, Any]) -> None:
        """From now on the host is served by something else than the sidecar; see ``fakefleet.py``."""
        (self.directory / host / "datapath.json").write_text(json.dumps(about))

    def runs(self) -> list[store.Run]:
        """Runs that were kept, the first one first."""
        return store.Fleet(self.state_dir / store.fleet_name(str(self.inventory), "ktls_hosts")).runs()

    def events(self) -> list[dict[str, Any]]:
        """The journal of the newest run, its chain checked."""
        return journal.read(self.runs()[-1].journal)

    def started(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        """The ``ktls`` command, in the background."""
        return subprocess.Popen(
            [str(Path(sys.executable).with_name("ktls")), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.directory,
            env={**self.environment(), **environment},
        )

    def ktls_killed(self, *arguments: str, at: str) -> str:
        """The ``ktls`` command, with its playbook killed at an event; what it said."""
        with self.started(*arguments, KTLS_TEST_KILL=at) as process:
            return process.communicate(timeout=120)[0]

    def wait_for(self, event: str, within_s: float = 60.0, **keys: Any) -> dict[str, Any]:
        """The first event of that name, with these keys, in the journal of the newest run."""
        deadline = time.monotonic() + within_s
        while time.monotonic() < deadline:
            for found in self.events() if self.runs() else []:
                if found["event"] == event and all(found.get(key) == value for key, value in keys.items()):
                    return found
            time.sleep(0.05)
        raise AssertionError(f"no {event} in the journal within {within_s:g} s")

    def playbook(self, verb: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
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
            env={**self.environment(), **more},
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
        "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callback"),
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
                    "ktls_agent_command": f"{sys.executable} {ROOT}/agent/zipapp_main.py agent",
                }
                for name in names
            }
        },
        "ktls_sentinels": {
            "hosts": {
                fakefleet.EYE: {
                    "ktls_reach": "socket",
                    "ktls_sentinel_socket": str(directory / fakefleet.EYE / "sentinel.sock"),
                }
            }
        },
    }
