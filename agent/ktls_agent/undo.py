# SPDX-License-Identifier: Apache-2.0
"""The steps of a revert, once around: NIC, receive, transmit, policy, module. Each is idempotent.

The datapath is what counts, and waits for nothing: its switch is under way before the NIC is asked, and if the
sidecar does not say within a tick that it has obeyed, a mark that it looks at for each connection says it instead.
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
        self, levers: Levers, marks: Marks, switch: Callable[[], Awaitable[dict[str, Any]]], wait_s: float = STEP_WAIT_S
    ) -> None:
        """``wait_s``: how long one step may hold up the next."""
        self._levers = levers
        self._marks = marks
        self._switch = switch
        self._wait_s = wait_s
        self._nic: asyncio.Task[Done] | None = None

    @property
    def busy(self) -> bool:
        """Whether a helper is still at work: to ask it again would only be slower, and is not another try."""
        return self._nic is not None and not self._nic.done()

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
            return "done", f"{problem}; the mark in /run/ktls keeps it in userspace"
        except OSError as error:
            by_mark = f"the mark cannot be made: {error.strerror}"
        await asyncio.wait({switching}, timeout=self._wait_s)
        problem = _problem(switching) if switching.done() else "no answer"
        return ("failed", f"{problem}; {by_mark}") if problem else ("done", "")

    async def once(self, revert: Revert, datapath: Awaitable[tuple[str, str]]) -> tuple[StepResult, ...]:
        """Try every step of ``revert`` once; ``datapath`` is under way. Takes a few seconds at most."""
        phase = revert.order.phase if revert.order else USERSPACE
        if self._nic is None and phase != USERSPACE:
            self._nic = asyncio.ensure_future(self._levers.offload_off())
            self._nic.add_done_callback(_retrieve)
        result, detail = await datapath
        tx = _step("tx", result, detail)
        rx = _step("rx", result if phase == "rx" else "nothing", detail if phase == "rx" else "")
        policy = _step("policy", "kept", "no order changes it")
        nic = await self._nic_step()
        return (nic, rx, tx, policy, await self._module(revert))

    async def _nic_step(self) -> StepResult:
        task = self._nic
        if task is None:
            return _step("nic", "nothing", "the order did not touch it")
        await asyncio.wait({task}, timeout=self._wait_s)
        if not task.done():
            # It goes on: what it comes to is looked at with the next try.
            return _step("nic", "failed", f"no answer within {self._wait_s:g} s")
        self._nic = None
        try:
            done = task.result()
        except KtlsError as error:
            return _step("nic", "failed", error.message)
        return _step("nic", done.result, done.detail)

    async def _module(self, revert: Revert) -> StepResult:
        if not revert.unload:
            return _step("module", "kept", "nobody asked for its removal")
        try:
            done = await asyncio.wait_for(self._levers.unload(), self._wait_s)
        except asyncio.TimeoutError:
            return _step("module", "failed", f"no answer within {self._wait_s:g} s")
        except KtlsError as error:
            # A refusal is an answer: connections under way still use it.
            return _step("module", "failed" if error.code in _NO_ANSWER else "kept", error.message)
        return _step("module", done.result, done.detail)


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Look at the outcome, so that asyncio does not complain if nobody else comes to it."""
    if not task.cancelled():
        task.exception()


def _problem(switching: asyncio.Future[dict[str, Any]]) -> str:
    """Return why the finished switch is not one, or nothing."""
    try:
        effective = switching.result().get("effective_mode")
    except KtlsError as error:
        return error.message
    return "" if effective == USERSPACE else f"the sidecar stays in {effective}"


def _step(step: str, result: str, detail: str) -> StepResult:
    return StepResult(step, result, detail[:300], time.time())
