# SPDX-License-Identifier: Apache-2.0
"""What sentinels say, as a rollout takes it: who does not see is blind, whatever else is well."""

from __future__ import annotations

from typing import Any

import pytest

from ktls_control import sentinel
from ktls_control.errors import ControlError
from ktls_control.judge.model import WaveVerdict
from ktls_control.rollout.machine import with_wire
from ktls_control.rollout.sentinels import WITHOUT, Sentinels, Sighting, ready

TARGET = {"probes": 3, "last_ok": 1.0, "error": None}


def status(*targets: str, **changes: Any) -> dict[str, Any]:
    return {"ok": True, "armed": True, "why": None, "targets": dict.fromkeys(targets, TARGET), "leaks": [], **changes}


@pytest.mark.parametrize(
    ("statuses", "sight", "words"),
    [
        ({"s1": status("a"), "s2": status("b")}, "clean", "armed: s1, s2"),
        ({"s1": status("a", "b"), "s2": status(armed=False)}, "clean", "armed: s1"),
        ({"s1": status("a"), "s2": status()}, "blind", "no armed sentinel watches b"),
        ({"s1": status("a", armed=False, why="no CAP_NET_RAW"), "s2": status(armed=False)}, "blind", "no CAP_NET_RAW"),
        # Silence may hide a leak, whoever else sees the host.
        ({"s1": status("a", "b")}, "blind", "s2: no answer"),
        ({"s1": {"ok": False, "error": {"message": "unreachable"}}}, "blind", "s1: unreachable"),
        ({}, "blind", "s1: no answer; s2: no answer"),
        ({"s1": status("a", "b"), "s2": status(leaks=[{"at": 1}])}, "leak", "s2 has seen plaintext"),
        # One that is not armed any more has seen what it has seen.
        ({"s1": status("a", "b"), "s2": status(armed=False, leaks=[{"at": 1}])}, "leak", "ktls-sentinel clear"),
    ],
)
def test_who_could_watch(statuses: dict[str, Any], sight: str, words: str) -> None:
    found = ready(statuses, ["s1", "s2"], ["a", "b"], 5.0)
    assert (found.sight, words in found.why) == (sight, True), found


@pytest.mark.parametrize("sight", ["clean", "leak", "blind"])
def test_what_was_seen_is_for_the_sentinels_own_judge(sight: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def judge(*given: Any) -> tuple[str, str]:
        asked.append(given)
        return sight, "why"

    monkeypatch.setattr(sentinel, "ask", lambda hosts: {host.name: status("a") for host in hosts})
    monkeypatch.setattr(sentinel, "judge", judge)
    assert Sentinels({"s1": {}}).look(["a"], 3.0, 9.0) == Sighting(sight, "why", 9.0)  # type: ignore[arg-type]
    assert asked == [({"s1": status("a")}, ["a"], 3.0, 9.0)]
    assert Sentinels({"s1": {}}).standing(["a", "b"], 9.0).sight == "blind"


def test_nobody_who_watches_is_said_and_a_question_that_fails_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(_hosts: Any) -> Any:
        raise ControlError("bad_inventory", "no address")

    monkeypatch.setattr(sentinel, "ask", ask)
    assert Sentinels({}).look(["a"], 0.0, 1.0) == Sentinels({}).standing(["a"], 1.0) == Sighting("none", WITHOUT, 1.0)
    assert Sentinels({"s1": {}}).look(["a"], 0.0, 1.0) == Sighting("blind", "no address", 1.0)
    assert Sentinels({"s1": {}}).standing(["a"]).sight == "blind"


@pytest.mark.parametrize(
    ("sight", "outcome", "after"),
    [
        ("clean", "pass", "pass"), ("none", "pass", "pass"), ("blind", "pass", "inconclusive"),
        ("blind", "inconclusive", "inconclusive"), ("blind", "fail", "fail"), ("leak", "pass", "fail"),
    ],
)  # fmt: skip
def test_what_is_seen_changes_the_verdict(sight: Any, outcome: Any, after: str) -> None:
    found = with_wire(WaveVerdict(outcome, ("x",)), Sighting(sight, "why"))
    assert found.outcome == after
    assert (f"sentinel {sight}: why" in found.reasons) == (sight in ("blind", "leak"))
    assert with_wire(WaveVerdict(outcome, ()), None).outcome == outcome
