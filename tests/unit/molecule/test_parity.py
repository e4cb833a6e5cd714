# SPDX-License-Identifier: Apache-2.0
"""Check mode is compared with what was done."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.molecule.plugins.filter.molecule_parity import molecule_parity

Results = list[dict[str, Any]]


def result(task: str, changed: bool, **more: Any) -> dict[str, Any]:
    return {"host": "web1", "task": task, "outcome": "ok", "changed": changed, **more}


def runs(before: Results, done: Results, again: Results | None = None, after: Results | None = None) -> str:
    quiet = [{**entry, "changed": False, "steps": []} for entry in done]
    wanted = [(True, before), (False, done), (False, quiet if again is None else again)]
    wanted.append((True, quiet if after is None else after))
    lines = [{"playbook": "create", "check": False, "results": [result("Start the lab", True)]}]
    lines += [{"playbook": "converge", "check": check, "results": results} for check, results in wanted]
    return "".join(json.dumps(line) + "\n" for line in lines)


def test_what_was_foretold_and_done_is_the_same() -> None:
    one = [result("Load", True, steps=["load"]), result("Look", False)]
    assert molecule_parity(runs(one, one)) == []


@pytest.mark.parametrize(
    ("before", "done", "complaint"),
    [
        ([result("Load", False)], [result("Load", True)], "check mode said no change, and there was one"),
        ([result("Load", True)], [result("Load", False)], "check mode said a change, and there was none"),
        ([], [result("Load", True)], "only the real run came to it, with a change"),
        ([result("Load", True)], [], "only check mode came to it, with a change"),
        (
            [result("Load", True, steps=["load"])],
            [result("Load", True, steps=["load", "persist"])],
            "check mode said steps ['load'], done was ['load', 'persist']",
        ),
        (
            [result("Load", True, restarted=["a.service"], notes=["not known"], steps=["x"])],
            [result("Load", True, restarted=["a.socket"], notes=[], steps=["y"])],
            "check mode said restarted ['a.service'], done was ['a.socket']",
        ),
        (
            [result("Load", True, restarted=[], notes=[])],
            [result("Load", True, restarted=["a.service"], notes=[])],
            "check mode said restarted [], done was ['a.service']",
        ),
        # The same task twice: the second time is another one.
        (
            [result("Load", True), result("Load", False)],
            [result("Load", True), result("Load", True)],
            "check mode said no change, and there was one",
        ),
    ],
)
def test_a_difference_is_named(before: Results, done: Results, complaint: str) -> None:
    assert molecule_parity(runs(before, done)) == [f"web1: Load: {complaint}"]


def test_what_cannot_be_known_may_differ() -> None:
    before = [result("Install", True, notes=["the release is not there yet"], steps=["a"], started=["x"])]
    done = [result("Install", True, notes=[], steps=["a", "b"], started=["x", "y"])]
    assert molecule_parity(runs(before, done)) == []


def test_of_several_roles_only_services_are_compared() -> None:
    text = runs(
        [result("B", True, steps=["a", "b"], restarted=["x"])], [result("B", True, steps=["b"], restarted=["x"])]
    )
    assert molecule_parity(text, exact=False) == []
    assert molecule_parity(text) == ["web1: B: check mode said steps ['a', 'b'], done was ['b']"]


def test_a_later_change_is_named() -> None:
    one = [result("Load", True)]
    assert molecule_parity(runs(one, one, again=one)) == ["web1: Load: the second run reports a change"]
    assert molecule_parity(runs(one, one, after=one)) == ["web1: Load: check mode after it reports a change"]


def test_a_sequence_without_check_is_no_parity() -> None:
    one = [result("Load", True)]
    lines = runs(one, one).splitlines()
    complaint = "converge.yml has to run as check, converge, converge, check; it ran as "
    assert molecule_parity("\n".join(lines[:4])) == [f"{complaint}check, converge, converge"]
    assert molecule_parity("") == [f"{complaint}nothing"]
