# SPDX-License-Identifier: Apache-2.0
"""``ktls-agent task``: what it refuses, and that it always answers in one line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ktls_host import task

ROOT = Path(__file__).parents[3]
OBSERVE: dict[str, Any] = {"task": "order", "check": False, "arguments": {"state": "observed"}}


def said(given: bytes, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    status = task.main(io.BytesIO(given))
    line = capsys.readouterr().out
    assert line.count("\n") == 1 and line.endswith("\n")
    found: dict[str, Any] = json.loads(line)["ktls_task"]
    assert status == int(bool(found.get("failed")))
    return found


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"task": "order"}',
        b" " * (task.MAX_REQUEST + 1),
        json.dumps({**OBSERVE, "task": "reboot"}).encode(),
        json.dumps({**OBSERVE, "task": ["order"]}).encode(),
        json.dumps({**OBSERVE, "check": "no"}).encode(),
        json.dumps({**OBSERVE, "check": None}).encode(),
        json.dumps({**OBSERVE, "more": 1}).encode(),
        json.dumps({**OBSERVE, "arguments": {"state": "observed", "colour": "red"}}).encode(),
        json.dumps({**OBSERVE, "arguments": {"state": "launched"}}).encode(),
        json.dumps({**OBSERVE, "arguments": {"state": ["observed"]}}).encode(),
        json.dumps({**OBSERVE, "arguments": {}}).encode(),
        json.dumps({**OBSERVE, "arguments": {"state": "ordered", "epoch": True}}).encode(),
        json.dumps({**OBSERVE, "arguments": {"state": "ordered", "lease_s": float("nan")}}).encode(),
        json.dumps({**OBSERVE, "arguments": {"state": "observed", "timeout_s": "1"}}).encode(),
        json.dumps({"task": "evidence", "check": True, "arguments": {"state": "observed"}}).encode(),
    ],
    ids=lambda given: repr(given[:60]),
)
def test_what_is_no_task_is_refused_before_anybody_is_asked(given: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    found = said(given, capsys)
    assert found["error_code"] == "bad_task"
    assert "\n" not in found["msg"]


def test_what_a_newer_control_node_asks_names_the_cure(capsys: pytest.CaptureFixture[str]) -> None:
    given = {**OBSERVE, "arguments": {"state": "observed", "colour": "red", "size": 1}}
    message = said(json.dumps(given).encode(), capsys)["msg"]
    assert "colour, size" in message
    assert "ktls deploy" in message


@pytest.mark.parametrize(
    "program",
    [
        [str(ROOT / "agent/zipapp_main.py"), "agent", "task"],
        ["-c", "import sys; from ktls_agent.cli import main; sys.exit(main(['task']))"],
    ],
    ids=["short way", "by the parser"],
)
def test_both_ways_to_the_verb_answer_alike(program: list[str], tmp_path: Path) -> None:
    given = {**OBSERVE, "arguments": {"state": "observed", "socket": str(tmp_path / "none.sock")}}
    done = subprocess.run(
        [sys.executable, *program],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "agent")},
    )
    found = json.loads(done.stdout)["ktls_task"]
    assert (done.returncode, done.stderr) == (1, "")
    assert (found["failed"], found["error_code"]) == (True, "unreachable")
    assert "start the service" in found["msg"]


class Answers:
    """An agent whose nginx takes some looks to be told; the last answer stays."""

    def __init__(self, *phases: str, **about: Any) -> None:
        self.phases, self.about = list(phases), about
        self.asked: list[str] = []

    def call(self, _path: str, request: dict[str, Any], _timeout_s: float) -> dict[str, Any]:
        self.asked.append(request["verb"])
        phase = self.phases.pop(0) if len(self.phases) > 1 else self.phases[0]
        datapath = {"kind": "nginx", "unit": "nginx.service", "switch": "reload", **self.about}
        return {
            "phase": phase, "order": "committed", "order_id": "w1", "sidecar": {}, "datapath": datapath,
            "off": {"flag": len(self.asked) > 1},
        }  # fmt: skip


def asked_of(agent: Answers, monkeypatch: pytest.MonkeyPatch, **wish: Any) -> dict[str, Any]:
    monkeypatch.setattr(task, "call", agent.call)
    monkeypatch.setattr(task, "LOOK_AGAIN_S", 0.0)
    monkeypatch.setattr(task, "BACK_S", 0.3)
    return task.answer({"task": "order", "check": False, "arguments": wish})


@pytest.mark.parametrize("wish", [{"state": "reverted", "id": "w1"}, {"state": "switched_off"}])
def test_a_reload_is_waited_for(wish: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Answers("tx+rx", "tx+rx", "tx+rx", "userspace")
    found = asked_of(agent, monkeypatch, **wish)
    assert not found.get("failed") and found["status"]["phase"] == "userspace"
    assert agent.asked[2:] == ["status", "status"]


def test_what_never_comes_back_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    never = Answers("tx+rx", problem="nginx -t fails")
    assert asked_of(never, monkeypatch, state="reverted", id="w1")["status"]["phase"] == "tx+rx", "for others to judge"
    found = asked_of(Answers("tx+rx", problem="nginx -t fails"), monkeypatch, state="switched_off")
    assert found["error_code"] == "not_confirmed" and "nginx -t fails" in found["msg"]
    stale = {"switch": "restart", "draining": {"processes": 2, "connections": None}, "unit": "lighttpd.service"}
    agent = Answers("tx+rx", **stale)
    found = asked_of(agent, monkeypatch, state="switched_off")
    assert found["error_code"] == "restart_needed" and "systemctl restart lighttpd.service" in found["msg"]
    assert agent.asked == ["status", "off"], "waiting changes nothing"
