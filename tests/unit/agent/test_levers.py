# SPDX-License-Identifier: Apache-2.0
"""The NIC helper is spared only where it is certain that there is nothing for it to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, Callable

import pytest

from ktls_agent import levers
from ktls_agent.levers import Levers


class Helper:
    def __init__(self) -> None:
        self.asked: list[str] = []

    async def call(self, path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self.asked.append(f"{path} {request['verb']}")
        return {"ok": True, "changed": True, "interfaces": {"mlx0": {}}}


def looking(found: Sequence[str] | Exception) -> Callable[[], Awaitable[Sequence[str]]]:
    async def look() -> Sequence[str]:
        if isinstance(found, Exception):
            raise found
        return found

    return look


@pytest.mark.parametrize(
    ("found", "asked"),
    [
        ((), []),
        (("mlx0",), ["nic off"]),
        (OSError(1, "not permitted"), ["nic off"]),
        (RuntimeError("no thread"), ["nic off"]),
    ],
    ids=["no card", "a card", "not known", "not asked"],
)
def test_helper_is_asked_unless_there_is_certainly_nothing(found: Sequence[str] | Exception, asked: list[str]) -> None:
    helper = Helper()
    used = Levers(helper.call, "lease", "module", "nic", looking(found))
    done = asyncio.run(used.offload_off())
    assert helper.asked == asked
    assert done.result == ("done" if asked else "nothing")
    assert used.offload == ({"mlx0": {}} if asked else {})


def test_without_a_way_to_look_the_helper_is_asked() -> None:
    helper = Helper()
    assert asyncio.run(Levers(helper.call, nic="nic").offload_off()).result == "done"
    assert helper.asked == ["nic off"]


def test_without_a_helper_nobody_looks() -> None:
    used = Levers(Helper().call, cards=looking(AssertionError("looked")))
    assert asyncio.run(used.offload_off()) == levers.NOT_HERE


def test_a_kernel_that_hangs_is_asked_once_and_never_believed_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it says in the end is of before: a card may have been switched on since."""
    monkeypatch.setattr(levers, "LOOK_TIMEOUT_S", 0.01)
    looks: list[asyncio.Future[Sequence[str]]] = []

    async def look() -> Sequence[str]:
        looks.append(asyncio.get_running_loop().create_future())
        return await looks[-1]

    async def scenario() -> None:
        helper = Helper()
        used = Levers(helper.call, nic="nic", cards=look)
        for count in (1, 2, 3):
            await used.offload_off()
            assert helper.asked == ["nic off"] * count
        assert len(looks) == 1
        looks[0].set_result(())
        again = asyncio.ensure_future(used.offload_off())
        while len(looks) < 2:
            await asyncio.sleep(0)
        looks[1].set_result(())
        assert await again == levers.NO_CARD
        assert len(helper.asked) == 3

    asyncio.run(scenario())
