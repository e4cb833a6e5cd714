# SPDX-License-Identifier: Apache-2.0
"""The agent keeps what a drill came to: trail, file, status, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.drills import DrillPart
from ktls_host.jsonsock import RequestError

from .conftest import Trail

DRILL = {
    "id": "d1", "ok": True, "at": 100.0, "step": "", "why": "", "left": "", "durations": {"off_s": 0.1}, "host": {},
}  # fmt: skip


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def values(part: DrillPart) -> dict[str, float]:
    return {family.name: family.samples[0].value for family in part.metrics()}


def test_it_outlives_the_agent_and_a_failure_does_not_hide_the_last_success(tmp_path: Path) -> None:
    path, trail = str(tmp_path / "drill.json"), Trail()

    async def main() -> DrillPart:
        part = DrillPart(path, trail, in_thread)
        assert values(part) == {}
        await part.keep(DRILL)
        await part.keep({**DRILL, "id": "d2", "ok": False, "at": 200.0, "step": "drain", "why": "w"})
        after = DrillPart(path, trail, in_thread)
        reading = asyncio.ensure_future(after.run())
        await asyncio.sleep(0)
        reading.cancel()
        return after

    part = asyncio.run(main())
    status = part.status()
    assert (status["last"]["id"], status["passed_at"], status["problem"]) == ("d2", 100.0, None)
    assert values(part) == {"ktls_drill_last_success_timestamp_seconds": 100.0, "ktls_drill_success": 0.0}
    assert [(name, detail["id"], detail["ok"]) for name, detail in trail.events] == [
        ("drill", "d1", True),
        ("drill", "d2", False),
    ]


@pytest.mark.parametrize("text", ["", "{", '{"last": 1, "passed_at": 2}', '{"last": {}, "passed_at": "x"}'])
def test_a_damaged_file_is_no_drill(tmp_path: Path, text: str) -> None:
    (tmp_path / "drill.json").write_text(text)

    async def main() -> dict[str, Any]:
        part = DrillPart(str(tmp_path / "drill.json"), Trail(), in_thread)
        reading = asyncio.ensure_future(part.run())
        await asyncio.sleep(0)
        assert not reading.done()
        reading.cancel()
        return part.status()

    assert asyncio.run(main())["last"] is None


@pytest.mark.parametrize(
    "change",
    [
        {"ok": 1},
        {"at": "x"},
        {"at": float("inf")},
        {"why": None},
        {"durations": []},
        {"more": 1},
        {"why": "x" * 20_000},
    ],
)
def test_what_is_no_result_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    part = DrillPart(str(tmp_path / "drill.json"), Trail(), in_thread)
    with pytest.raises(RequestError):
        asyncio.run(part.keep({**DRILL, **change}))
    assert part.status()["last"] is None


def test_a_full_disk_is_a_problem_and_the_result_is_still_known(tmp_path: Path) -> None:
    async def full(function: Callable[..., Any], *arguments: Any) -> Any:
        raise OSError(28, "No space left on device")

    part = DrillPart(str(tmp_path / "drill.json"), Trail(), full)
    asyncio.run(part.keep(DRILL))
    assert "No space left" in part.status()["problem"]
    assert part.status()["last"] == DRILL
