# SPDX-License-Identifier: Apache-2.0
"""What sentinels say, as a rollout takes it: who does not see is blind, whatever else is well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from ktls_control.errors import ControlError
from ktls_control.judge.model import WaveVerdict
from ktls_control.rollout import sentinels
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


class Module:
    """In place of ``ktls_control.sentinel``."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def ask(self, hosts: Sequence[Any]) -> Mapping[str, Mapping[str, Any]]:
        self.asked.append([host.name for host in hosts])
        if isinstance(self.answer, Exception):
            raise self.answer
        return {"s1": status("a")}

    def judge(self, statuses: Any, hosts: Any, since: float, now: float) -> tuple[str, str]:
        self.asked.append((dict(statuses), list(hosts), since, now))
        return (str(self.answer), "why")


@pytest.mark.parametrize(
    ("answer", "sight"),
    [("clean", "clean"), ("leak", "leak"), ("blind", "blind"), ("perhaps", "blind"), ("none", "blind"),
     (ControlError("cut_off", "s1 unreachable"), "blind")],
)  # fmt: skip
def test_only_clean_is_clean(answer: Any, sight: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = Module(answer)
    monkeypatch.setattr(sentinels, "_judge", lambda: module)
    assert Sentinels({"s1": {}}).look(["a"], 3.0, 9.0).sight == sight
    assert module.asked[0] == ["s1"]


def test_nobody_who_watches_is_said_and_a_release_without_one_is_blind(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Sentinels({}).look(["a"], 0.0, 1.0) == Sighting("none", WITHOUT, 1.0)
    monkeypatch.setattr(sentinels, "_judge", lambda: None)
    assert Sentinels({"s1": {}}).look(["a"], 0.0, 1.0).sight == "blind"
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
