# SPDX-License-Identifier: Apache-2.0
"""The root helpers, as the agent uses them: one verb each, no arguments, on sockets that systemd opened.

A socket of None is a lever that this host does without: that is not a failure. A socket that does not answer is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from ktls_host.errors import KtlsError

_LOG = logging.getLogger(__name__)

HelperCall = Callable[[str, "dict[str, Any]", float], Awaitable["dict[str, Any]"]]
"""``call(path, request, timeout_s)``: the answer, or KtlsError."""

CardsLook = Callable[[], "Awaitable[Sequence[str]]"]
"""The interfaces that have something to switch off, or OSError where that is not known."""

# Longer than that is no answer: the kernel asks a driver, and one that hangs must not hold up an order.
LOOK_TIMEOUT_S = 1.0
# A helper is a process that systemd starts for one answer; on a loaded or emulated host that takes seconds.
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Done:
    """What a lever came to: ``done`` or ``nothing`` (to do)."""

    result: str
    detail: str = ""


NOT_HERE = Done("nothing", "this host has no helper for it")
NO_CARD = Done("nothing", "no interface has TLS features to switch")


class Levers:
    """The lease timer, the module and the network cards."""

    def __init__(
        self,
        call: HelperCall,
        lease: str | None = None,
        module: str | None = None,
        nic: str | None = None,
        cards: CardsLook | None = None,
    ) -> None:
        """``call`` reaches a helper; ``lease``, ``module`` and ``nic`` are the helpers' sockets.

        ``cards`` spares a helper where it would find nothing to do. Without it the helper is always asked.
        """
        self._call = call
        self._lease = lease
        self._module = module
        self._nic = nic
        self._cards = cards
        self._looking: asyncio.Future[Sequence[str]] | None = None
        self.offload: Any = None
        """What the NIC helper last said of the interfaces, None until it did."""
        self.before: Any = None
        """What they were right before phase hw, as it said when it switched them on."""

    @property
    def has_timer(self) -> bool:
        """Whether a timer guards leases on this host."""
        return self._lease is not None

    @property
    def has_module(self) -> bool:
        """Whether the module can be loaded by us."""
        return self._module is not None

    async def arm(self) -> None:
        """Start the lease timer. Raises KtlsError."""
        await self._ask(self._lease, "arm")

    async def disarm(self) -> None:
        """Stop the lease timer. Raises KtlsError."""
        await self._ask(self._lease, "disarm")

    async def load(self) -> Done:
        """Load module tls. Raises KtlsError."""
        return await self._ask(self._module, "load")

    async def unload(self) -> Done:
        """Unload module tls, if nobody uses it. Raises KtlsError."""
        return await self._ask(self._module, "unload")

    async def offload_off(self) -> Done:
        """Switch the TLS features of all network cards off. Raises KtlsError.

        The helper is started unless it is certain that there is nothing for it: not to know is no reason to skip it.
        """
        if self._nic is not None and await self._nothing_to_switch():
            self.offload = {}
            return NO_CARD
        return await self._ask(self._nic, "off")

    async def offload_on(self) -> Done:
        """Let the network cards encrypt what is sent. Raises KtlsError, also where no helper could do it."""
        if self._nic is None:
            raise KtlsError("no_helper", "this host has no helper for network cards (nic_socket)")
        return await self._ask(self._nic, "on")

    async def offload_back(self) -> Done:
        """Give the network cards what they had right before phase hw, if that is not so. Raises KtlsError."""
        if self._nic is not None and await self._nothing_to_switch():
            self.offload = {}
            return NO_CARD
        return await self._ask(self._nic, "back")

    async def _nothing_to_switch(self) -> bool:
        # One look at a time: a kernel that hangs shall not hold a thread for each try, and its late answer is old.
        if self._cards is None or (self._looking is not None and not self._looking.done()):
            return False
        looking = self._looking = asyncio.ensure_future(self._cards())
        looking.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.wait({looking}, timeout=LOOK_TIMEOUT_S)
        if not looking.done() or looking.cancelled():
            _LOG.warning("the kernel does not say which interfaces have TLS features; asking the helper")
            return False
        error = looking.exception()
        if error is not None:
            _LOG.info("which interfaces have TLS features is not known (%s); asking the helper", error)
            return False
        return not looking.result()

    async def _ask(self, path: str | None, verb: str) -> Done:
        if path is None:
            return NOT_HERE
        answer = await self._call(path, {"verb": verb}, TIMEOUT_S)
        if path == self._nic:
            self.offload = answer.get("interfaces")
            self.before = answer.get("before")
        return _done(answer)


def _done(answer: dict[str, Any]) -> Done:
    result = "nothing" if answer.get("changed") is False else "done"
    notes = answer.get("notes")
    return Done(result, "; ".join(str(note) for note in notes)[:300] if isinstance(notes, list) else "")


async def _no_helper(path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
    return {}


def no_levers() -> Levers:
    """Return the levers of a host that has none."""
    return Levers(_no_helper)
