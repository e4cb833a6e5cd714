# SPDX-License-Identifier: Apache-2.0
"""Our modules as Ansible runs them: over SSH, one task, with the result of each host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ktls_lab import api

TIMEOUT_S = 200
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class ByAnsible:
    """A lab as an inventory."""

    lab: api.Lab

    def __call__(
        self,
        pattern: str,
        module: str,
        check: bool = False,
        variables: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> dict[str, dict[str, Any]]:
        """Run one task on the hosts of ``pattern``; return results by host, failed ones too."""
        with tempfile.TemporaryDirectory(prefix="ktls-test-") as scratch:
            keep = {"content": "{{ result | to_json }}", "dest": f"{scratch}/{{{{ inventory_hostname }}}}.json"}
            play = {
                "hosts": pattern,
                "gather_facts": False,
                "vars": variables or {},
                "tasks": [
                    {f"ktls.fleet.{module}": arguments, "register": "result", "ignore_errors": True},
                    {"ansible.builtin.copy": {**keep, "mode": "0600"}, "delegate_to": "localhost", "check_mode": False},
                ],
            }
            playbook = Path(scratch) / "one-task.yml"
            playbook.write_text(yaml.safe_dump([play]))
            command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "inventory/lab", str(playbook)]
            done = subprocess.run(
                [*command, *(["--check", "--diff"] if check else [])],
                capture_output=True,
                text=True,
                cwd=ROOT,
                env={
                    **os.environ,
                    "KTLS_LAB": self.lab.name,
                    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                    "ANSIBLE_DIFF_ALWAYS": "1",
                    "ANSIBLE_NOCOLOR": "1",
                },
                timeout=TIMEOUT_S,
                check=False,
            )
            found = {path.stem: json.loads(path.read_text()) for path in Path(scratch).glob("*.json")}
        assert found and done.returncode == 0, done.stdout + done.stderr
        return found
