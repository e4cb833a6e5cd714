# SPDX-License-Identifier: Apache-2.0
"""Filter ``molecule_parity``: where check mode said something else than was then done."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

#: What a run of ``converge.yml`` is for, and whether it was in check mode, in the order of the test sequence.
_SEQUENCE = (("before", True), ("converge", False), ("idempotence", False), ("after", True))
_SERVICES = ("started", "restarted", "stopped", "restart_required")

Result = Mapping[str, Any]
Task = tuple[str, str, int]


def molecule_parity(text: str, exact: bool = True) -> list[str]:
    """Where check mode was wrong, a line each; empty when it was right.

    :param text: the runs as callback ``molecule_runs`` wrote them.
    :param exact: compare steps. Where several roles are taken, the second finds what the first has done, and check mode
        cannot: then what is said of services counts.
    """
    runs = [json.loads(line) for line in text.splitlines() if line.strip()]
    found = [run for run in runs if run["playbook"] == "converge"]
    if [bool(run["check"]) for run in found] != [check for _, check in _SEQUENCE]:
        modes = ", ".join("check" if run["check"] else "converge" for run in found) or "nothing"
        return [f"converge.yml has to run as check, converge, converge, check; it ran as {modes}"]
    before, done, again, after = (_by_task(run["results"]) for run in found)
    complaints = []
    for task in {**done, **before}:
        complaints += _compare(task, before.get(task), done.get(task), exact)
    for why, later in (("the second run", again), ("check mode after it", after)):
        complaints += [f"{_name(task)}: {why} reports a change" for task, result in later.items() if result["changed"]]
    return complaints


def _by_task(results: Iterable[Result]) -> dict[Task, Result]:
    """Results by host and task; a task that came twice counts twice."""
    seen: Counter[tuple[str, str]] = Counter()
    found = {}
    for result in results:
        key = (result["host"], result["task"])
        found[(*key, seen[key])] = result
        seen[key] += 1
    return found


def _compare(task: Task, foretold: Result | None, done: Result | None, exact: bool) -> list[str]:
    name = _name(task)
    if foretold is None or done is None:
        changed = (foretold or done or {}).get("changed")
        where = "check mode" if done is None else "the real run"
        return [f"{name}: only {where} came to it, with a change"] if changed else []
    if foretold["changed"] != done["changed"]:
        said = "a change" if foretold["changed"] else "no change"
        return [f"{name}: check mode said {said}, and there was {'one' if done['changed'] else 'none'}"]
    # A module that could not know everything says so in its notes. What it foretells of services has to come true.
    unsure = bool(foretold.get("notes")) or not exact
    return [
        f"{name}: check mode said {key} {foretold[key]}, done was {done[key]}"
        for key in (_SERVICES if unsure else ("steps", *_SERVICES))
        if key in foretold and key in done and not _agree(foretold[key], done[key], unsure)
    ]


def _agree(foretold: list[Any], done: list[Any], unsure: bool) -> bool:
    return set(foretold) <= set(done) if unsure else foretold == done


def _name(task: Task) -> str:
    host, name, _ = task
    return f"{host}: {name}"


class FilterModule:
    """Filter ``molecule_parity``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """:returns: the filter by name."""
        return {"molecule_parity": molecule_parity}
