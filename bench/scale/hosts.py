# SPDX-License-Identifier: Apache-2.0
"""Simulated hosts: fake agents of one process, and inventories that reach them.

What is simulated: the host. Each is a Unix socket that speaks the agent's protocol (``tests/orchestration``), without a
kernel, traffic or a machine behind it. What is real: playbooks, modules, Ansible, ``ktls``, ssh, sshd.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError

ROOT = Path(__file__).resolve().parents[2]
GROUP = "ktls_hosts"


@dataclass(frozen=True)
class Hosts:
    """Names of the hosts, and the directory that holds one for each."""

    directory: Path
    names: tuple[str, ...]

    def inventory(self, path: Path, common: dict[str, Any], *, addresses: bool = False) -> Path:
        """Write an inventory: what is common to all is in the group. With ``addresses``, hosts have theirs."""
        own = {name: {"ktls_agent_socket": str(self.directory / name / "agent.sock")} for name in self.names}
        for number, name in enumerate(self.names if addresses else ()):
            own[name]["ansible_host"] = address(number)
        group = {"vars": common, "hosts": own}
        path.write_text(json.dumps({GROUP: group}, indent=1))
        return path


def address(number: int) -> str:
    """The loopback address of host ``number``, from 0: 127.1.0.1 and up."""
    return f"127.1.{number // 250}.{number % 250 + 1}"


def environment() -> dict[str, str]:
    """Environment of what is measured: the project's own configuration of Ansible."""
    paths = os.pathsep.join(str(ROOT / name) for name in ("agent", "control", "lab"))
    return {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        "PYTHONPATH": paths,
        "PYTHONDONTWRITEBYTECODE": "1",
    }


@contextlib.contextmanager
def serve(directory: Path, count: int) -> Iterator[Hosts]:
    """Run ``count`` fake agents until the end of the block."""
    names = tuple(f"h{number:05d}" for number in range(count))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count + 200:
        raise BenchError(f"{count} hosts need {count + 200} open files and the limit is {hard}: raise it (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 200), hard))
    # Names by standard input would be kinder, but the tests' fleet takes arguments.
    with subprocess.Popen(
        [sys.executable, str(ROOT / "tests/orchestration/fakefleet.py"), str(directory), *names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
        cwd=ROOT,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise BenchError("the fake agents did not start; see their message above")
        try:
            yield Hosts(directory, names)
        finally:
            process.stdin.close()
            process.wait(30)
