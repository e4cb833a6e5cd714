# SPDX-License-Identifier: Apache-2.0
"""The root helpers, as the agent uses them: one verb each, no arguments, on sockets that systemd opened.

A socket of None is a lever that this host does without: that is not a failure. A socket that does not answer is.
"""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any, Callable

HelperCall = Callable[[str, "dict[str, Any]", float], Awaitable["dict[str, Any]"]]
"""``call(path, request, timeout_s)``: the answer, or KtlsError."""

# A helper is a process that systemd starts for one answer; on a loaded or emulated host that takes seconds.
TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Done:
    """What a lever came to: ``done`` or ``nothing`` (to do)."""

    result: str
    detail: str = ""


NOT_HERE = Done("nothing", "this host has no helper for it")


class Levers:
    """The lease timer, the module and the network cards."""

    def __init__(
        self, call: HelperCall, lease: str | None = None, module: str | None = None, nic: str | None = None
    ) -> None:
        """``call`` reaches a helper; the others are the helpers' sockets."""
        self._call = call
        self._lease = lease
        self._module = module
        self._nic = nic
        self.offload: Any = None
        """What the NIC helper last said of the interfaces, None until it did."""

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
        """Switch the TLS features of all network cards off. Raises KtlsError."""
        return await self._ask(self._nic, "off")

    async def _ask(self, path: str | None, verb: str) -> Done:
        if path is None:
            return NOT_HERE
        answer = await self._call(path, {"verb": verb}, TIMEOUT_S)
        if path == self._nic:
            self.offload = answer.get("interfaces")
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
