# SPDX-License-Identifier: Apache-2.0
"""The agent's way to the datapath of its host: requests as :class:`~ktls_agent.core.Agent` makes them, off the loop."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Callable

from ktls_host.datapath.model import USERSPACE, Datapath, Flow, Seen, Wish
from ktls_host.errors import KtlsError

from .evidence.model import Snapshot, Volume

InThread = Callable[..., Awaitable[Any]]


class DatapathCall:
    """A :data:`~ktls_agent.core.SidecarCall` over any datapath. The switch waits for no other question."""

    def __init__(self, datapath: Datapath, in_thread: InThread, in_switch_thread: InThread) -> None:
        """``in_thread`` and ``in_switch_thread`` run what blocks, the second of them nothing but the switch."""
        self.datapath = datapath
        self._in_thread = in_thread
        self._in_switch_thread = in_switch_thread

    async def __call__(self, request: dict[str, Any]) -> dict[str, Any]:
        """Carry out ``{"verb": "mode" | "status", ...}``. Raises KtlsError."""
        if request.get("verb") == "mode":
            wish = Wish(str(request["mode"]), float(request.get("share", 1.0)), request.get("tls12") is True)
            switched: dict[str, Any] = await self._in_switch_thread(self.datapath.switch, wish)
            return switched
        seen: dict[str, Any] = await self._in_thread(self.datapath.observe)
        return seen

    async def refusal(self, phase: str) -> KtlsError | None:
        """Return why ``phase`` cannot be ordered here. Userspace always can."""
        if phase == USERSPACE:
            return None
        found: KtlsError | None = await self._in_thread(self.datapath.refusal, phase)
        return found


def seen(snapshot: Snapshot | None) -> Seen | None:
    """Return the evidence as a datapath takes it."""
    if snapshot is None:
        return None
    kinds = sorted({*snapshot.connections, *snapshot.volumes})
    flows = []
    for kind in kinds:
        volume = snapshot.volumes.get(kind, Volume())
        names = (kind.port, kind.process, kind.version, kind.cipher, kind.tx, kind.rx)
        flows.append(Flow(*names, snapshot.connections.get(kind, 0), volume.sent, volume.received))
    return Seen(snapshot.at_s, snapshot.since_s, tuple(flows))
