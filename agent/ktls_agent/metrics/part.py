# SPDX-License-Identifier: Apache-2.0
"""The parts of the agent that hand metrics out: a socket to be scraped, and a file for node_exporter."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Iterable
from typing import Any, Callable

from ktls_host.files import atomic_write
from ktls_host.httpserver import Answer, HttpServer

from ..parts import Part
from .collector import Collector
from .config import MetricsConfig, Textfile
from .family import Family
from .text import CONTENT_TYPE

InThread = Callable[..., Awaitable[Any]]


class MetricsPart:
    """Serves ``/metrics`` and ``/report.json`` on a Unix socket, and on loopback where that is configured."""

    name = "metrics"

    def __init__(self, config: MetricsConfig, path: str, group: str | None, collector: Collector) -> None:
        """Listen at ``path``, for members of ``group``, once :meth:`run` runs."""
        self._config = config
        self._path = path
        self._group = group
        self._collector = collector

    async def run(self) -> None:
        """Serve until cancelled. Raises :class:`~ktls_host.errors.KtlsError` when it cannot listen."""
        server = HttpServer(self._answer)
        try:
            await server.listen_unix(self._path, 0o660, self._group)
            if self._config.listen is not None:
                await server.listen_tcp(self._config.listen.host, self._config.listen.port)
            await asyncio.Event().wait()
        finally:
            await server.close()

    def status(self) -> dict[str, Any]:
        """Return where metrics can be had, and what had to be left out of them."""
        listen, faults = self._config.listen, self._collector.faults
        return {
            "socket": self._path,
            "listen": None if listen is None else {"host": listen.host, "port": listen.port},
            "faults": faults,
            "problem": f"metrics: {len(faults)} left out of the exposition, {faults[0]}" if faults else None,
        }

    def metrics(self) -> Iterable[Family]:
        """Return nothing: what it exposes comes from others."""
        return ()

    async def _answer(self, path: str) -> Answer:
        if path == "/metrics":
            return Answer(await self._collector.text(), CONTENT_TYPE)
        if path == "/report.json":
            return Answer(json.dumps(await self._collector.report(), sort_keys=True) + "\n", "application/json")
        return Answer("there is /metrics and /report.json\n", status=404)


class TextfilePart:
    """Writes the exposition to a file, again and again. A file that cannot be written is a problem of this part."""

    name = "textfile"

    def __init__(self, config: Textfile, collector: Collector, in_thread: InThread) -> None:
        """``in_thread`` runs what waits for the disk."""
        self._config = config
        self._collector = collector
        self._in_thread = in_thread

    async def run(self) -> None:
        """Write until cancelled; then remove the file: old numbers must not look like new ones."""
        try:
            while True:
                text = await self._collector.text()
                await self._in_thread(atomic_write, self._config.path, text.encode(), 0o644)
                await asyncio.sleep(self._config.interval_s)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(self._config.path)

    def status(self) -> dict[str, Any]:
        """Return where the file is."""
        return {"path": self._config.path, "interval_s": self._config.interval_s}

    def metrics(self) -> Iterable[Family]:
        """Return nothing."""
        return ()


def metrics_parts(
    config: MetricsConfig, agent_socket: str, group: str | None, collector: Collector, in_thread: InThread
) -> list[Part]:
    """Return the parts that ``config`` asks for."""
    parts: list[Part] = [MetricsPart(config, config.path(agent_socket), group, collector)]
    if config.textfile is not None:
        parts.append(TextfilePart(config.textfile, collector, in_thread))
    return parts
