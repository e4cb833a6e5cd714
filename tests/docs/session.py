# SPDX-License-Identifier: Apache-2.0
"""A page's commands, run one block after the other in a copy of the tree, as a reader would run them.

What is real: every program of this project, Ansible, playbooks, plans, journals, reports. What is not: hosts. Where a
page has a fleet, its hosts are fake agents (``tests/orchestration/fakefleet.py``) that passed a drill, and soaks
last a fifth of a second. Nothing that would change a host gets through (``connection/dochost.py``).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ktls_control.rollout.store import fleet_name
from tests import sources
from tests.orchestration.fakefleet import EYE
from tests.orchestration.test_preflight import judged

from .lines import commands, typed
from .pages import ROOT, Block

#: Where the pages have the inventory of the fleet.
INVENTORY = "inventory/mine"
#: What a block that is run may call: nothing that installs, and nothing that could hurt whoever runs the tests.
HARMLESS = frozenset((
    "ansible-doc", "ansible-galaxy", "ansible-inventory", "ansible-playbook", "cat", "cd", "cp", "cut", "echo",
    "export", "false", "grep", "head", "jq", "ktls", "ktls-agent", "ls", "mkdir", "printf", "python", "ruff", "sed",
    "sort", "ssh-keygen", "tail", "test", "true", "wc",
))  # fmt: skip
#: What the agent of a host says that is served by something else than the sidecar.
SERVED = {
    "nginx": {
        "kind": "nginx", "unit": "nginx.service", "program": "nginx", "version": "1.26.3", "experiments": False,
        "modes": ["userspace", "tx+rx", "rx"], "consent": {"tx_rx": True, "restart": False}, "switch": "reload",
    },
}  # fmt: skip
#: Verbs that take a machine, or minutes.
_NOT_HERE = ("lab", "demo", "deploy", "drill")
_TIMEOUT_S = 120


@dataclass
class Session:
    """:param where: the copy, with the reader's home beside it."""

    where: Path
    fleet: ExitStack = field(default_factory=ExitStack)
    more: dict[str, str] = field(default_factory=dict)

    def run(self, block: Block) -> list[str]:
        """Run a block; what was wrong with it, or nothing."""
        if refused := _refused(block):
            return [refused]
        if block.mark.fleet:
            self.more |= self.fleet.enter_context(_fake_fleet(self.where, block.mark.fleet))
        if block.info == "sh":
            return self._script(block, block.text, "")
        faults: list[str] = []
        for script, said in steps(block):
            faults += self._script(block, script, said)
        return faults

    def _script(self, block: Block, script: str, expected: str) -> list[str]:
        done = subprocess.run(
            ["sh", "-eu", "-c", script],
            cwd=self.where, env=self._environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=_TIMEOUT_S, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        told = f"{block.where}: {script.strip()}"
        if done.returncode != block.mark.exit:
            return [f"{told}: ended with {done.returncode}, not {block.mark.exit}\n{said[-3000:]}"]
        return [f"{told}: did not say: {line}\n{said[-3000:]}" for line in unsaid(expected, said)]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("KTLS_", "ANSIBLE_"))}
        return {
            **kept,
            "PATH": f"{Path(sys.executable).parent}:{kept.get('PATH', '/usr/bin:/bin')}",
            "HOME": str(self.where.parent / "home"),
            "COLUMNS": "120",
            "LC_ALL": "C.UTF-8",
            "ANSIBLE_NOCOLOR": "1",
            **self.more,
        }


@contextmanager
def session(scratch: Path) -> Iterator[Session]:
    """A copy of what git has and would have, and an empty home."""
    where = scratch / "ktls-fleet"
    for name in sources.names(ROOT):
        if name.startswith(("tests/fixtures/host/", "tests/conformance/corpus/")):
            continue
        path = ROOT / name
        if path.is_symlink() or path.is_file():
            (where / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, where / name, follow_symlinks=False)
    (where / ".venv").symlink_to(Path(sys.executable).parent.parent)
    (scratch / "home").mkdir()
    one = Session(where)
    with one.fleet:
        yield one


def steps(block: Block) -> Iterator[tuple[str, str]]:
    """Each command of a ``console`` block with what the page says that it prints."""
    script, said = "", ""
    here: str | None = None
    for line in block.text.splitlines():
        if here is not None:
            script += line + "\n"
            here = None if line == here else here
        elif line.startswith("$ "):
            if script:
                yield script, said
            script, said = line[2:] + "\n", ""
            if found := re.search(r"<<'?(\w+)'?", line):
                here = found[1]
        elif script.endswith("\\\n"):
            script += line + "\n"
        else:
            said += line + "\n"
    if script:
        yield script, said


def unsaid(expected: str, said: str) -> list[str]:
    """Lines of ``expected`` that are not in ``said``, in order; … in a line stands for anything, blanks for blanks.

    What the page leaves out may be there. What the page shows has to be.
    """
    lines = [_flat(line) for line in said.splitlines()]
    missing, at = [], 0
    for line in map(_flat, expected.splitlines()):
        if not line.strip("…. "):
            continue
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in line.split("…")))
        found = next((number for number in range(at, len(lines)) if pattern.fullmatch(lines[number])), None)
        if found is None:
            missing.append(line)
        else:
            at = found + 1
    return missing


def _flat(line: str) -> str:
    return " ".join(line.split())


def _refused(block: Block) -> str | None:
    for command in commands(block):
        if command.program not in HARMLESS:
            return f"{block.where}: {command.program} is not run by tests/docs: mark the block with <!-- not run: … -->"
        if command.program == "ktls" and command.words[1:2] and command.words[1] in _NOT_HERE:
            return f"{block.where}: ktls {command.words[1]} is not run by tests/docs: mark the block"
    return None if typed(block) else f"{block.where}: there is no command in it"


@contextmanager
def _fake_fleet(where: Path, names: Sequence[str]) -> Iterator[dict[str, str]]:
    """Fake agents, the variables that lead to them, and their drills; yields what the environment has to have.

    :param names: perhaps an inventory first; then hosts, as NAME or NAME=DATAPATH.
    """
    place = names[0] if "/" in names[0] else INVENTORY
    kinds = dict(name.partition("=")[::2] for name in names if "/" not in name)
    # Unix socket paths are short; a test's own directory may be deep.
    directory = Path(f"/tmp/ktls-docs-{os.getpid()}-{Path(place).name}")
    inventory = where / place
    (inventory / "group_vars").mkdir(parents=True)
    answer = {**judged("ready"), "invocation": {}}
    answer["info"] = {**answer["info"], "cpu": {"online": 8, "busy": 0.2}}
    (where.parent / "probe.json").write_text(json.dumps(answer))
    (inventory / "host_vars").mkdir()
    (inventory / "group_vars/ktls_hosts.yml").write_text(json.dumps(_variables(where, directory)))
    for name, kind in kinds.items():
        if kind:
            (directory / name).mkdir(parents=True)
            (directory / name / "datapath.json").write_text(json.dumps(SERVED[kind]))
        # Outside of Ansible nobody fills in templates.
        own = {"ktls_agent_socket": f"{directory}/{name}/agent.sock"}
        (inventory / f"host_vars/{name}.yml").write_text(json.dumps(own))
    state = where.parent / "home/.local/state/ktls" / fleet_name(str(inventory), "ktls_hosts")
    state.mkdir(parents=True)
    served = {name: {"datapath": f"{kind} {SERVED[kind]['unit']}"} if kind else {} for name, kind in kinds.items()}
    drills = {name: {"at": time.time() - 60, "passed": True, "host": served[name]} for name in kinds}
    (state / "drills.json").write_text(json.dumps({"hosts": drills}))
    program = ROOT / "tests/orchestration/fakefleet.py"
    with subprocess.Popen(
        [sys.executable, str(program), str(directory), *kinds],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "agent")},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield {"ANSIBLE_CONNECTION_PLUGINS": str(Path(__file__).parent / "connection")}
        finally:
            process.communicate(timeout=10)
            shutil.rmtree(directory)


def _variables(where: Path, directory: Path) -> dict[str, Any]:
    return {
        "ansible_connection": "dochost",
        "ansible_python_interpreter": sys.executable,
        "ansible_user": "root",
        "ansible_become": False,
        "dochost_answer_file": str(where.parent / "probe.json"),
        "ktls_reach": "socket",
        "ktls_agent_command": f"{sys.executable} {ROOT}/agent/zipapp_main.py agent",
        "ktls_sentinel_socket": f"{directory}/{EYE}/sentinel.sock",
        "ktls_policy": {
            "soak": {"min_s": 0.2, "max_s": 20, "min_bytes": 100_000},
            "gates": {"method": "none"},
        },
    }
