# SPDX-License-Identifier: Apache-2.0
"""docs/undeploy.md explains every refusal that undeploy adds, and none that is gone."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[3]
PLACES = ("agent/ktls_host/undeploy", "control/ktls_control/undeploy")


def test_every_code_is_told() -> None:
    sources = [path for place in PLACES for path in (ROOT / place).rglob("*.py")]
    sources.append(ROOT / "plugins/action/ktls_undeploy.py")
    raised = {
        code for path in sources for code in re.findall(r'(?:KtlsError|ControlError)\(\s*"([a-z_]+)"', path.read_text())
    }
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/undeploy.md").read_text(), re.MULTILINE)
    told = {code for row in rows for code in re.findall(r"`([a-z_]+)`", row)}
    elsewhere = {"cut_off", "user_busy", "command_failed"}  # by HostAction, and by a name that is not at the call
    assert raised - told == set()
    assert told - raised == elsewhere


def test_the_role_passes_on_what_the_module_takes() -> None:
    (task,) = yaml.safe_load((ROOT / "roles/ktls_undeploy/tasks/main.yml").read_text())
    defaults = yaml.safe_load((ROOT / "roles/ktls_undeploy/defaults/main.yml").read_text())
    given = set(task["ktls.fleet.ktls_undeploy"])
    assert {f"ktls_undeploy_{name}" for name in given - {"group"}} == set(defaults)
