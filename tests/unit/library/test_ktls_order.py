# SPDX-License-Identifier: Apache-2.0
"""ktls_order against an agent that is played by a few lines: same socket, same words, none of its duties."""

from __future__ import annotations

import asyncio
import copy
import threading
from typing import TYPE_CHECKING, Any

import pytest

from ktls_host import task
from ktls_host.jsonsock import Peer, RequestError, serve_unix

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

IDLE: dict[str, Any] = {
    "phase": "userspace",
    "order": "none",
    "order_id": None,
    "ordered_phase": None,
    "epoch": 0,
    "off": {"flag": False},
    "probe": None,
}


class Agent:
    """Keeps a status and changes it as the real agent documents."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.status = copy.deepcopy(IDLE)
        self.verbs: list[str] = []
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server = self._run(serve_unix(self.path, self.answer))

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def stop(self) -> None:
        self._run(self.server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def answer(self, request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        self.verbs.append(request["verb"])
        return getattr(self, f"on_{request['verb']}")(request) or self.status

    def on_status(self, request: dict[str, Any]) -> None:
        pass

    def on_probe(self, request: dict[str, Any]) -> None:
        self.status["probe"] = {"ok": True}

    def on_series(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"series": {"boot_id": "b", "began_s": 1.0, "samples": {"at_ms": [1]}, "more": False}}

    def on_order(self, request: dict[str, Any]) -> None:
        order = request["order"]
        if order["epoch"] < self.status["epoch"]:
            raise RequestError("stale_epoch", "too old")
        if order["phase"] != "userspace" and self.status["off"]["flag"]:
            raise RequestError("off_latched", "off")
        self.status.update(
            phase=order["phase"],
            order="pending",
            order_id=order["id"],
            ordered_phase=order["phase"],
            epoch=order["epoch"],
        )

    def on_confirm(self, request: dict[str, Any]) -> None:
        if (self.status["order"], self.status["order_id"]) != ("pending", request["id"]):
            raise RequestError("nothing_pending", "nothing to confirm")
        self.status["order"] = "committed"

    def on_extend(self, request: dict[str, Any]) -> None:
        if (self.status["order"], self.status["order_id"]) != ("pending", request["id"]):
            raise RequestError("not_pending", "nothing to extend")
        self.status["lease_left_s"] = request["lease_s"]

    def on_cancel(self, request: dict[str, Any]) -> None:
        if (self.status["order"], self.status["order_id"]) != ("pending", request["id"]):
            raise RequestError("not_pending", "nothing to cancel")
        self.on_revert({"reason": "cancelled"})

    def on_revert(self, request: dict[str, Any]) -> None:
        if self.status["order"] in ("pending", "committed"):
            self.status["order"] = "reverted"
        self.status.update(phase="userspace", revert_reason=request["reason"])

    def on_off(self, request: dict[str, Any]) -> None:
        self.on_revert(request)
        self.status["off"] = {"flag": True}

    def on_clear(self, request: dict[str, Any]) -> None:
        self.status["off"] = {"flag": False}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    played = Agent(tmp_path / "agent.sock")
    yield played
    played.stop()


ORDER: dict[str, Any] = {"state": "ordered", "phase": "tx", "id": "r7", "epoch": 7, "lease_s": 30}
CONFIRM: dict[str, Any] = {"state": "confirmed", "id": "r7", "epoch": 7}
STEPS: list[dict[str, Any]] = [
    ORDER,
    CONFIRM,
    {"state": "reverted"},
    {**ORDER, "id": "r8", "epoch": 8},
    {"state": "extended", "id": "r8", "epoch": 8, "lease_s": 90},
    {"state": "cancelled", "id": "r8", "epoch": 8},
    {**ORDER, "id": "r9", "epoch": 9},
    {"state": "switched_off", "reason": "drill"},
    {"state": "cleared"},
]


def test_each_state_once_and_twice_and_predicted(agent: Agent, run: Callable[..., dict[str, Any]]) -> None:
    for number, step in enumerate(STEPS):
        before = copy.deepcopy(agent.status)
        predicted = run("ktls_order", _check=True, socket=agent.path, **step)
        assert agent.status == before, (number, "check mode asked for a change")
        real = run("ktls_order", socket=agent.path, **step)
        assert predicted["changed"] is real["changed"] is True, number
        assert predicted["diff"] == real["diff"], number
        assert real["status"] == {"ok": True, **agent.status}
        count = len(agent.verbs)
        again = run("ktls_order", socket=agent.path, **step)
        assert again["changed"] is False, number
        assert agent.verbs[count:] == ["status"], "nothing is asked for twice"
        assert again["diff"]["before"] == again["diff"]["after"]
    assert agent.status["phase"] == "userspace"


@pytest.mark.parametrize("check", [True, False])
def test_the_command_line_answers_as_the_module_does(
    agent: Agent, run: Callable[..., dict[str, Any]], check: bool
) -> None:
    """A wave asks by ``ktls-agent task``, a playbook of a user by the module."""
    for step in [*STEPS, ORDER, {**ORDER, "facts": {"kernel": "other"}}]:
        before = copy.deepcopy(agent.status)
        module = run("ktls_order", _check=check, socket=agent.path, **step)
        agent.status = before
        command = task.answer({"task": "order", "check": check, "arguments": {**step, "socket": agent.path}})
        for key in ("changed", "status", "diff", "failed", "error_code"):
            # A failed module leaves out what it did not change.
            assert command.get(key) == module.get(key) or (key, module.get("failed")) == ("changed", True), (step, key)
    for arguments in ({}, {"series": False}):
        module = run("ktls_evidence", _check=check, socket=agent.path, **arguments)
        command = task.answer({"task": "evidence", "check": check, "arguments": {**arguments, "socket": agent.path}})
        assert {key: module[key] for key in command} == command
        assert bool(command["series"]) == (arguments == {})


def test_observed_changes_nothing(agent: Agent, run: Callable[..., dict[str, Any]]) -> None:
    result = run("ktls_order", socket=agent.path)
    assert (result["changed"], agent.verbs) == (False, ["status"])


@pytest.mark.parametrize("check", [True, False])
def test_fresh_probe_on_request(agent: Agent, run: Callable[..., dict[str, Any]], check: bool) -> None:
    result = run("ktls_order", _check=check, socket=agent.path, probe=True)
    assert result["status"]["probe"] == {"ok": True}
    assert (result["changed"], agent.verbs) == (False, ["status", "probe"])


def test_probe_after_a_change(agent: Agent, run: Callable[..., dict[str, Any]]) -> None:
    assert run("ktls_order", _check=True, socket=agent.path, probe=True, **ORDER)["status"]["probe"] is None
    result = run("ktls_order", socket=agent.path, probe=True, **ORDER)
    assert (result["changed"], result["status"]["order"], result["status"]["probe"]) == (
        True,
        "pending",
        {"ok": True},
    )
    assert result["diff"]["before"] != result["diff"]["after"]


@pytest.mark.parametrize("check", [True, False])
def test_refusals_are_the_same_in_check_mode(agent: Agent, run: Callable[..., dict[str, Any]], check: bool) -> None:
    agent.status["epoch"] = 8
    assert run("ktls_order", _check=check, socket=agent.path, **ORDER)["error_code"] == "stale_epoch"
    agent.status.update(epoch=0, off={"flag": True})
    assert run("ktls_order", _check=check, socket=agent.path, **ORDER)["error_code"] == "off_latched"


def test_refusal_of_the_agent_keeps_its_code(agent: Agent, run: Callable[..., dict[str, Any]]) -> None:
    result = run("ktls_order", socket=agent.path, **CONFIRM)
    assert (result["error_code"], result["msg"]) == ("nothing_pending", "nothing to confirm")


def test_no_agent(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    result = run("ktls_order", socket=str(tmp_path / "none.sock"))
    assert result["error_code"] == "unreachable"
    assert "start the service" in result["msg"]
