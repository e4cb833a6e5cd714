# SPDX-License-Identifier: Apache-2.0
"""The verbs of the control socket."""

from __future__ import annotations

from typing import Any, Protocol

from ktls_host.jsonserver import JsonServer, listen
from ktls_host.jsonsock import IDLE_TIMEOUT_S, Peer, RequestError

from .leave import USUAL
from .metrics import render
from .report import OK, Report, status


class Service(Protocol):
    """What is controlled: the supervisor, or one server alone."""

    async def order(self, mode: object, share: object, drain_s: object = USUAL, tls12: object = False) -> None:
        """Change the mode for all that is accepted after this returns. Raises RequestError.

        ``drain_s``: how long connections whose kTLS is then no longer ordered may go on. ``tls12``: with mode hw, move
        new connections to TLS 1.2 with AES-GCM where the client can do that.
        """

    async def report(self, fresh: bool = True) -> Report:
        """Return everything, now. Without ``fresh`` nobody is waited for: counts may be those of a second ago."""


async def serve_control(service: Service, path: str, group: str | None) -> JsonServer:
    """Serve the control socket at ``path``. Raises KtlsError when it cannot be made."""

    async def handle(request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        return await answer(service, request)

    return await listen(path, handle, mode=0o660, group=group, idle_timeout_s=IDLE_TIMEOUT_S)


async def answer(service: Service, request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request. Raises RequestError: ``bad_verb`` and those of :meth:`Service.order`."""
    verb = request.get("verb")
    if verb == "mode":
        more = (request.get("drain_s", USUAL), request.get("tls12", False))
        await service.order(request.get("mode"), request.get("share", 1.0), *more)
        return status(await service.report(fresh=False))
    if verb == "status":
        return status(await service.report())
    if verb == "metrics":
        return {"text": render(await service.report())}
    if verb == "health":
        report = await service.report()
        return {"healthy": report["health"] == OK, "health": report["health"], "workers": report["workers"]}
    raise RequestError("bad_verb", f"there is no verb {verb!r}; use status, mode, metrics or health")
