# SPDX-License-Identifier: Apache-2.0
"""The one thread that writes: in the order in which it was asked, so that no earlier outcome overwrites a later one.

What had to be written and could not be stays owed, and is tried again before anything new.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable

from .effects import (
    DropFlags,
    DropIntent,
    DropLapsed,
    Effect,
    PutEpoch,
    PutFlags,
    PutIntent,
    PutRecord,
    PutRevert,
)
from .flags import OffFlags
from .marks import Marks
from .store import Store

WRITES = (DropFlags, DropIntent, DropLapsed, PutEpoch, PutFlags, PutIntent, PutRecord, PutRevert)
_OPTIONAL = (PutFlags, PutRevert)  # what follows does not depend on them


def why(error: OSError) -> str:
    """Return what an operating system error says, without its number."""
    return error.strerror or str(error) or type(error).__name__


class Disk:
    """Carries out the effects that write."""

    def __init__(self, store: Store, flags: OffFlags, marks: Marks, boot: str, problems: dict[str, str]) -> None:
        """``problems`` is where failures are shown, by subject."""
        self._store = store
        self._flags = flags
        self._marks = marks
        self._boot = boot
        self._problems = problems
        self._owed: list[Effect] = []  # touched on the thread only
        self._thread = ThreadPoolExecutor(1, "ktls-disk")

    @property
    def owes(self) -> bool:
        """Whether something is still to be written."""
        return bool(self._owed)

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run ``function`` on the thread, after what was asked for before."""
        return await asyncio.wrap_future(self._thread.submit(function, *args))

    async def write(self, *effects: Effect) -> None:
        """Write ``effects`` now. Raises OSError, also while something older is owed; then the rest is not written."""
        await self.run(self._write, effects)

    def follow(self, effects: Sequence[Effect]) -> Future[OSError | None]:
        """Write ``effects``, now or as soon as it works."""
        return self._thread.submit(self._follow, effects)

    def close(self) -> None:
        """End the thread without waiting for what it still does."""
        self._thread.shutdown(wait=False)

    def _write(self, effects: Sequence[Effect]) -> None:
        if error := self._follow([]):
            raise error
        for effect in effects:
            self._carry_out(effect)

    def _follow(self, effects: Sequence[Effect]) -> OSError | None:
        self._owed.extend(effects)
        while self._owed:
            try:
                self._carry_out(self._owed[0])
            except OSError as error:
                if not isinstance(self._owed[0], _OPTIONAL):
                    self._problems["state"] = f"{self._store.directory} cannot be written ({why(error)}); retrying"
                    return error
                if isinstance(self._owed[0], PutFlags):
                    self._problems["flags"] = f"{self._flags.durable_path} cannot be written ({why(error)})"
            self._owed.pop(0)
        self._problems.pop("state", None)
        return None

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, PutEpoch):
            self._store.put_epoch(effect.epoch)
        elif isinstance(effect, PutIntent):
            self._store.put_intent(effect, self._boot)
        elif isinstance(effect, DropIntent):
            self._store.drop_intent()
        elif isinstance(effect, PutRecord):
            self._store.put_record(effect.status, effect.order, effect.reason)
        elif isinstance(effect, PutRevert):
            self._store.put_revert(effect.revert, effect.stuck)
        elif isinstance(effect, PutFlags):
            self._flags.write_durable(effect.reason)
            self._problems.pop("flags", None)
        elif isinstance(effect, DropFlags):
            self._flags.clear()
            self._marks.drop_stuck()
        elif isinstance(effect, DropLapsed):
            self._marks.drop_lapsed()
