# SPDX-License-Identifier: Apache-2.0
"""Health and metrics over HTTP/1.1 on a Unix socket, for tools that speak HTTP and not our control protocol.

    curl --unix-socket /run/ktls-sidecar/http.sock http://localhost/healthz

One request a connection. ``/healthz``: 200 ``ok``, or 503 with the reason. ``/metrics``: Prometheus text.
"""

from __future__ import annotations

from ktls_host.httpserver import Answer, HttpServer

from .control import Service
from .metrics import render
from .report import OK

__all__ = ["HttpServer", "serve_http"]

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_MAX_CONNECTIONS = 32


async def serve_http(service: Service, path: str, group: str | None) -> HttpServer:
    """Serve at ``path``, mode 0660. Raises KtlsError: ``socket_in_use``, ``path_in_the_way``, ``bind_failed``."""

    async def answer(target: str) -> Answer:
        if target == "/healthz":
            health = (await service.report())["health"]
            return Answer(f"{health}\n", status=200 if health == OK else 503)
        if target == "/metrics":
            return Answer(render(await service.report()), _PROMETHEUS)
        return Answer("there is /healthz and /metrics\n", status=404)

    server = HttpServer(answer, max_connections=_MAX_CONNECTIONS)
    await server.listen_unix(path, 0o660, group)
    return server
