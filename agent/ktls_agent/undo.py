# SPDX-License-Identifier: Apache-2.0
"""The steps of a revert, once around: NIC, receive, transmit, policy, module. Each is idempotent; done is done.

The datapath is what counts, and waits for nothing: its switch is under way before the NIC is asked, and if the
sidecar does not say within a tick that it has obeyed, a mark that it looks at for each connection says it instead.
Another datapath does not look at marks; there the mark has ``ktls-off`` do the same (ktls-datapath.path), and what
counts is what the datapath says in the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Callable

from ktls_host.errors import KtlsError

from .levers import Done, Levers
from .marks import Marks
from .orders import USERSPACE
from .state import Revert, StepResult

STEP_WAIT_S = 2.0
MARK_AFTER_S = 0.25
_NO_ANSWER = ("unreachable", "timeout", "protocol", "internal")


class Undoer:
    """Tries the steps. ``switch`` brings the datapath to userspace and returns the sidecar's answer."""

    def __init__(
        self,
        levers: Levers,
        marks: Marks,
        switch: Callable[[], Awaitable[dict[str, Any]]],
        wait_s: float = STEP_WAIT_S,
        by_marks: bool = True,
    ) -> None:
        """``wait_s``: how long one step may hold up the next. ``by_marks``: the datapath looks at marks by itself."""
        self._by_marks = by_marks
        self._levers = levers
        self._marks = marks
        self._switch = switch
        self._wait_s = wait_s
        self._asked: dict[str, asyncio.Future[Done]] = {}

    @property
    def busy(self) -> bool:
        """Whether a helper is still at work: to ask it again would only be slower, and is not another try."""
        return any(not task.done() for task in self._asked.values())

    async def datapath(self) -> tuple[str, str]:
        """Switch, and return result and detail. Raises nothing but what kills a process."""
        switching = asyncio.ensure_future(self._switch())
        switching.add_done_callback(_retrieve)
        done, _ = await asyncio.wait({switching}, timeout=MARK_AFTER_S)
        problem = _problem(switching) if done else "no answer within a tick"
        if not problem:
            return "done", ""
        try:
            self._marks.raise_lapsed()
            if self._by_marks:
                return "done", f"{problem}; the mark in /run/ktls keeps it in userspace"
            by_mark = "the mark in /run/ktls has ktls-datapath.service do the same"
        except OSError as error:
            by_mark = f"the mark cannot be made: {error.strerror}"
        if not self._by_marks:
            await asyncio.wait({switching})  # its helper is bounded in time
        await asyncio.wait({switching}, timeout=self._wait_s)
        problem = _problem(switching) if switching.done() else "no answer"
        return ("failed", f"{problem}; {by_mark}") if problem else ("done", "")

    async def once(self, revert: Revert, datapath: Awaitable[tuple[str, str]]) -> tuple[StepResult, ...]:
        """Try once what ``revert`` has not done yet; ``datapath`` is under way. Takes a few seconds at most."""
        phase = revert.order.phase if revert.order else USERSPACE
        if not revert.steps:  # what was asked for another revert, and has ended since, says nothing of this one
            self._asked = {step: task for step, task in self._asked.items() if not task.done()}
        before = {one.step: one for one in revert.steps if one.result != "failed"}
        if "nic" not in before:
            # Also for an order that is not known: "back" does nothing where nothing was switched on.
            self._begin("nic", self._levers.offload_off if phase in ("tx", "rx") else self._levers.offload_back)
        if revert.unload and "module" not in before:
            self._begin("module", self._levers.unload)
        result, detail = await datapath
        return (
            before.get("nic") or await self._finish("nic", "the order did not touch it"),
            _step("rx", result if phase == "rx" else "nothing", detail if phase == "rx" else ""),
            _step("tx", result, detail),
            _step("policy", "kept", "no order changes it"),
            before.get("module") or await self._finish("module", "nobody asked for its removal"),
        )

    def _begin(self, step: str, call: Callable[[], Awaitable[Done]]) -> None:
        """Ask a helper, unless one that was asked in an earlier try is still to be heard."""
        if step not in self._asked:
            self._asked[step] = asyncio.ensure_future(call())
            self._asked[step].add_done_callback(_retrieve)

    async def _finish(self, step: str, otherwise: str) -> StepResult:
        """Return what the helper says; ``otherwise`` is why none was asked."""
        task = self._asked.get(step)
        if task is None:
            return _step(step, "nothing" if step == "nic" else "kept", otherwise)
        await asyncio.wait({task}, timeout=self._wait_s)
        if not task.done():
            # It goes on: what it comes to is looked at with the next try.
            return _step(step, "failed", f"no answer within {self._wait_s:g} s")
        del self._asked[step]
        try:
            done = task.result()
        except KtlsError as error:
            # A module that is in use is an answer, not a failure.
            refused = step == "module" and error.code not in _NO_ANSWER
            return _step(step, "kept" if refused else "failed", error.message)
        return _step(step, done.result, done.detail)


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Look at the outcome, so that asyncio does not complain if nobody else comes to it."""
    if not task.cancelled():
        task.exception()


def _problem(switching: asyncio.Future[dict[str, Any]]) -> str:
    """Return why the finished switch is not one, or nothing."""
    try:
        answer = switching.result()
    except KtlsError as error:
        return error.message
    effective = answer.get("effective_mode")
    return "" if effective == USERSPACE else str(answer.get("problem") or f"what serves stays in {effective}")


def _step(step: str, result: str, detail: str) -> StepResult:
    return StepResult(step, result, detail[:300], time.time())
