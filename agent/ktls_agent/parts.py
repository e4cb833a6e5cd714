# SPDX-License-Identifier: Apache-2.0
"""What runs beside the order machine: each part by itself, and none of them able to take the machine down."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from .metrics.family import Family

_LOG = logging.getLogger(__name__)
RESTART_S = 5.0


class Part(Protocol):
    """One subsystem: evidence, guards, metrics."""

    name: str
    """Its key in the status object and in problems."""

    async def run(self) -> None:
        """Work until cancelled. An exception is logged, shown as a problem, and :meth:`run` is called anew."""

    def status(self) -> dict[str, Any] | None:
        """Return what it adds to the status object, now and without waiting; None: nothing here is about it.

        ``problem``, if there is one, is a line for the operator, and one of the problems of the host.
        """

    def metrics(self) -> Iterable[Family]:
        """Return what it adds to the exposition, now and without waiting."""


class Parts:
    """Keeps parts running. ``problems`` says which of them are not."""

    def __init__(self, parts: Sequence[Part], restart_s: float = RESTART_S) -> None:
        """Take the parts; nothing runs before :meth:`start`."""
        self.all = tuple(parts)
        self.problems: dict[str, str] = {}
        self._restart_s = restart_s
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start every part. Needs a running event loop."""
        self._tasks = [asyncio.ensure_future(self._keep(part)) for part in self.all]

    async def stop(self) -> None:
        """Cancel every part and wait for its end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def status(self) -> dict[str, dict[str, Any] | None]:
        """Return the status of every part under its name."""
        return {part.name: part.status() for part in self.all}

    async def _keep(self, part: Part) -> None:
        while True:
            try:
                await part.run()
                problem = "ended by itself"
            except Exception as error:  # whatever it was, the order machine goes on
                _LOG.exception("%s failed", part.name)
                problem = f"failed: {' '.join(str(error).split()) or type(error).__name__}"
            self.problems[part.name] = f"{part.name} {problem}; starting it again"
            await asyncio.sleep(self._restart_s)
            del self.problems[part.name]
