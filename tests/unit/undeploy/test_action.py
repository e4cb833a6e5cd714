# SPDX-License-Identifier: Apache-2.0
"""Two stages and the copy between them: whatever goes wrong with the copy, nothing is removed."""

from __future__ import annotations

import base64
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible_collections.ktls.fleet.plugins.action.ktls_undeploy import ActionModule

from ktls_host.undeploy import trail

from .test_keep import written

__all__ = ["written"]

VARIABLES = {"inventory_hostname": "web1", "ansible_inventory_sources": ["/inventory"]}


class Action(ActionModule):  # type: ignore[misc]
    """The action over a host below a directory."""

    def __init__(self, host: Path, check: bool = False, **arguments: Any) -> None:
        self._task = SimpleNamespace(args=arguments, check_mode=check)
        self.host = host
        self.asked: list[dict[str, Any]] = []
        self.cut = False
        self.flip = False

    def ask(self, module: str, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        self.asked.append(arguments)
        if arguments.get("stage") != "prepare":
            return {"changed": True, "steps": ["all: removed"], "left": ["/x: stays"], "diff": []}
        found = trail.read(str(self.host))
        return {"changed": True, "steps": ["datapath: userspace"], "audit": found.as_dict() if found else None}

    def _low_level_execute_command(self, cmd: str, *rest: Any, **named: Any) -> dict[str, Any]:
        if self.cut:
            raise AnsibleConnectionFailure("the link is down")
        words = shlex.split(cmd)
        assert words[:3] == ["base64", "-w0", "--"]
        content = (self.host / words[3].lstrip("/")).read_bytes()
        if self.flip:
            content = content[:-3] + b"X" + content[-2:]
        return {"rc": 0, "stdout": base64.b64encode(content).decode(), "stderr": ""}


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActionBase, "run", lambda self, tmp=None, task_vars=None: {})


def test_copied_then_removed(written: Path, tmp_path: Path) -> None:
    action = Action(written, audit_dir=str(tmp_path / "kept"), group="g")
    result = action.run(None, VARIABLES)
    prepare, remove = action.asked
    assert (prepare["stage"], remove["stage"], remove["copied"]) == ("prepare", "remove", result["audit"]["digest"])
    copy = Path(result["audit"]["path"])
    assert copy.parent == tmp_path / "kept/web1"
    assert (copy / "audit.jsonl").read_bytes() == (written / "var/lib/ktls/audit/audit.jsonl").read_bytes()
    assert result["steps"] == ["datapath: userspace", "all: removed"]
    assert result["ktls_undeploy"]["left"] == ["/x: stays"]


def test_state_directory_of_the_fleet_by_itself(written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path / "state"))
    result = Action(written).run(None, VARIABLES)
    assert Path(result["audit"]["path"]).is_relative_to(tmp_path / "state")
    assert Path(result["audit"]["path"]).parts[-3:-1] == ("audit", "web1")


@pytest.mark.parametrize("what", ["cut", "flip", "disk"])
def test_copy_that_fails(written: Path, tmp_path: Path, what: str) -> None:
    action = Action(written, audit_dir=str(tmp_path / "kept"))
    action.cut, action.flip = what == "cut", what == "flip"
    if what == "disk":
        (tmp_path / "kept").write_text("no directory")
    result = action.run(None, VARIABLES)
    assert (result["failed"], result["error_code"]) == (True, "audit_not_copied")
    assert result["msg"].startswith("web1: ")
    assert "nothing was removed" in result["msg"]
    assert [asked["stage"] for asked in action.asked] == ["prepare"]


def test_tampered_trail(written: Path, tmp_path: Path) -> None:
    path = written / "var/lib/ktls/audit/audit.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"number":3', b'"number":7').replace(b'"number": 3', b'"number": 7'))
    action = Action(written, audit_dir=str(tmp_path / "kept"))
    assert action.run(None, VARIABLES)["error_code"] == "audit_tampered"
    assert len(action.asked) == 1
    action = Action(written, audit_dir=str(tmp_path / "other"), audit="copied")
    result = action.run(None, VARIABLES)
    assert result["audit"]["whole"] is False
    assert len(action.asked) == 2


def test_no_trail_and_check_mode(tmp_path: Path) -> None:
    action = Action(tmp_path)
    assert action.run(None, VARIABLES)["audit"] is None
    assert "copied" not in action.asked[1]
    action = Action(tmp_path, check=True, stage="remove")
    action.run(None, VARIABLES)
    assert action.asked == [{}], "one question, and no stage of the caller's"
