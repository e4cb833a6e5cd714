# SPDX-License-Identifier: Apache-2.0
"""The verbs that steer a run and tell of it, over journals that a run has left. No host is asked anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ktls_control.cli import main
from ktls_control.plan.model import Refusal
from ktls_control.rollout import control

from .driver import KilledError, World, plan_of, world_of


@pytest.fixture
def failed(state_dir: Path) -> World:
    """Return what is left of a run whose second wave failed by ``h3``."""
    refusal = Refusal("kernel_too_old", "kernel 4.18 has no TLS 1.3 transmit", "upgrade the kernel")
    plan = plan_of(refused={"old1": (refusal,)})
    world = world_of(state_dir, plan)
    world.hosts["h3"].faults.add("leak")
    world.playbook(plan)
    return world


def killed_at(state_dir: Path, event: str, **changes: Any) -> World:
    plan = plan_of(**changes)
    world = world_of(state_dir, plan)

    def die(name: str) -> None:
        if name == event:
            raise KilledError(name)

    world.on_event = die
    with pytest.raises(KilledError):
        world.playbook(plan)
    return world


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def test_history_tells_of_every_run(failed: World, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _err = said(capsys, "history")
    assert code == 0
    assert "1/3" in out
    assert "failed: wave 2: h3: gate fail: share" in " ".join(out.split())
    runs = json.loads(said(capsys, "history", "--json")[1])["runs"]
    assert [(run["outcome"], run["operator"], run["epoch"], run["hosts"]) for run in runs] == [
        ("failed", "ada@control1", 1, 4)
    ]
    events = said(capsys, "history", "--run", runs[0]["run"])[1]
    assert "run_started" in events.splitlines()[0]
    assert "run_ended outcome=failed" in events.splitlines()[-1]


def test_history_names_a_run_whose_journal_was_changed(failed: World, capsys: pytest.CaptureFixture[str]) -> None:
    journal = next((failed.state_dir / "fleet" / "runs").iterdir()) / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b'"ok":true', b'"ok":None', 1))
    code, out, _err = said(capsys, "history", "--json")
    assert code == 0
    assert json.loads(out)["runs"][0]["code"] == "journal_broken"
    assert json.loads(said(capsys, "explain", "h1", "--json")[1])["error"]["code"] == "journal_broken"


def test_explain_tells_why_a_host_is_where_it_is(failed: World, capsys: pytest.CaptureFixture[str]) -> None:
    _code, out, _err = said(capsys, "explain", "h3")
    assert out.startswith("h3: reverted")
    assert "gate of its wave" in out
    assert "gate fail: share: 0.00 % of" in out
    assert "host_reverted host=h3 ok=true" in " ".join(out.split())
    told = json.loads(said(capsys, "explain", "h1", "--json")[1])
    assert (told["state"], told["wave"], told["wave_state"]) == ("confirmed", 1, "promoted")
    assert [event["event"] for event in told["events"]] == ["host_ordered", "host_confirmed"]


def test_explain_knows_why_a_host_was_never_asked(failed: World, capsys: pytest.CaptureFixture[str]) -> None:
    _code, out, _err = said(capsys, "explain", "old1")
    assert "kernel 4.18 has no TLS 1.3 transmit (kernel_too_old); cure: upgrade the kernel" in out
    assert said(capsys, "explain", "h4")[1].startswith("h4: waiting")
    code, _out, err = said(capsys, "explain", "nobody")
    assert (code, "says nothing of it" in err) == (1, True)


@pytest.mark.parametrize("verb", ["pause", "promote", "abort", "resume"])
def test_what_has_ended_is_not_steered(failed: World, capsys: pytest.CaptureFixture[str], verb: str) -> None:
    code, out, _err = said(capsys, verb, "--json")
    assert (code, json.loads(out)["error"]["code"]) == (1, "run_ended")


def test_promote_says_when_nobody_is_waited_for(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killed_at(state_dir, "soak_started")
    code, out, _err = said(capsys, "promote", "--json")
    error = json.loads(out)["error"]
    assert (code, error["code"]) == (1, "not_waiting")
    assert "wave 1 is soaking" in error["message"]


def test_a_dead_engine_is_said_so_and_what_was_asked_is_kept(
    state_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    world = killed_at(state_dir, "waiting", approve=(1,))
    run = next((world.state_dir / "fleet" / "runs").iterdir())
    for verb in ("promote", "pause", "abort"):
        code, out, _err = said(capsys, verb, "--json", "--reason", "incident")
        error = json.loads(out)["error"]
        assert (code, error["code"]) == (1, "engine_dead")
        assert "`ktls resume` does, and obeys it" in error["message"]
    asked = control.look(run / "control")
    assert asked.abort == control.Asked("ada@control1", "incident")
    assert (asked.pause is not None, list(asked.promote)) == (True, [1])
    code, out, _err = said(capsys, "promote", "--json")
    assert json.loads(out)["error"]["code"] == "aborting", "abort holds"


def test_without_any_run_the_way_to_one_is_told(state_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "start with `ktls plan` and `ktls apply PLAN`" in said(capsys, "history")[1]
    assert said(capsys, "abort")[0] == 1
