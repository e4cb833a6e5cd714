# SPDX-License-Identifier: Apache-2.0
"""The request of undeploy: what takes servers away is not begun by a mistyped word."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def playbook(inventory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", str(inventory), "playbooks/undeploy.yml"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment, check=False, timeout=60
    )


def test_without_consent_no_host_is_asked(tmp_path: Path) -> None:
    """The host would be asked by a program that leaves a mark."""
    inventory = tmp_path / "hosts"
    mark = tmp_path / "asked"
    inventory.write_text(
        "[ktls_hosts]\nweb1 ansible_connection=local ansible_become=false "
        f"ansible_shell_executable={tmp_path}/shell ansible_python_interpreter={tmp_path}/python\n"
    )
    for name in ("shell", "python"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {mark}\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    done = playbook(inventory)
    assert done.returncode != 0
    assert "ktls_undeploy_ok=true" in done.stdout
    assert not mark.exists()
    done = playbook(inventory, "-e", "ktls_undeploy_ok=true")
    assert done.returncode != 0
    assert mark.exists(), "the check above would have seen it"
