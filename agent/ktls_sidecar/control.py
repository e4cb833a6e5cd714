# SPDX-License-Identifier: Apache-2.0
"""The verbs of the control socket."""

from __future__ import annotations

from typing import Any

from ktls_host.jsonserver import JsonServer
from ktls_host.jsonsock import Peer, RequestError, serve_unix

from .server import Server


async def serve_control(server: Server, path: str, group: str | None) -> JsonServer:
    """Serve the control socket at ``path``. Raises KtlsError when it cannot be made."""

    def handle(request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        return answer(server, request)

    return await serve_unix(path, handle, mode=0o660, group=group)


def answer(server: Server, request: dict[str, Any]) -> dict[str, Any]:
    """Answer one request. Raises RequestError: ``bad_verb`` and those of :meth:`ModeSwitch.order`."""
    verb = request.get("verb")
    if verb == "mode":
        server.mode.order(request.get("mode"))
        return server.status()
    if verb == "status":
        return server.status()
    if verb == "metrics":
        return {"text": server.metrics()}
    raise RequestError("bad_verb", f"there is no verb {verb!r}; use status, mode or metrics")
