# SPDX-License-Identifier: Apache-2.0
"""A revert where what serves does not look at marks: what counts is what it says in the end."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from ktls_agent import undo
from ktls_agent.levers import no_levers
from ktls_agent.marks import Marks
from ktls_agent.undo import Undoer
from ktls_host.errors import KtlsError

USERSPACE = {"mode": "userspace", "effective_mode": "userspace"}
RUNS_ON = {"mode": "userspace", "effective_mode": "tx+rx", "problem": "web.service runs on until it is restarted"}
GONE = KtlsError("restart_failed", "it does not start")


@pytest.mark.parametrize(
    ("answer", "result", "detail"),
    [
        (USERSPACE, "done", ""),
        (RUNS_ON, "failed", "runs on until it is restarted; the mark in /run/ktls has ktls-datapath.service"),
        ({"effective_mode": "tx"}, "failed", "what serves stays in tx"),
        (GONE, "failed", "it does not start"),
    ],
)
@pytest.mark.parametrize("slow", [False, True])
def test_a_slow_switch_is_waited_for_and_its_word_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any, result: str, detail: str, slow: bool
) -> None:
    monkeypatch.setattr(undo, "MARK_AFTER_S", 0.05)

    async def switch() -> dict[str, Any]:
        await asyncio.sleep(0.2 if slow else 0)
        if isinstance(answer, KtlsError):
            raise answer
        return dict(answer)

    undoer = Undoer(no_levers(), Marks(str(tmp_path)), switch, wait_s=0.05, by_marks=False)
    found = asyncio.run(undoer.datapath())
    assert found[0] == result
    assert detail in found[1]
    # The other way to it is open meanwhile.
    assert os.path.exists(tmp_path / "lapsed") == (slow or result == "failed")


def test_one_that_looks_at_marks_is_not_waited_for(tmp_path: Path) -> None:
    async def switch() -> dict[str, Any]:
        return RUNS_ON

    found = asyncio.run(Undoer(no_levers(), Marks(str(tmp_path)), switch).datapath())
    assert found[0] == "done"
    assert "the mark in /run/ktls keeps it in userspace" in found[1]
