# SPDX-License-Identifier: Apache-2.0
"""A worker process: one server, told what to do by the supervisor over a channel.

The order in force lies in memory that the supervisor shares, and is looked at for each connection; a message on the
channel follows, for what an order means to older connections. The first one lets the worker serve. The channel's end
means that the supervisor is gone, however it went: then the worker goes too, at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TextIO

from ktls_host.errors import KtlsError

from . import certificates
from .channel import Channel, Message
from .config import Config
from .mode import USERSPACE
from .openssl import Library, ServerContext
from .page import OrderPage
from .poller import Poller, new_loop
from .server import Server

REPORT_EVERY_S = 1.0
_LAST_WORDS_S = 2.0


@dataclass(frozen=True)
class Job:
    """What a worker gets from the supervisor at its fork."""

    config: Config
    lib: Library
    context: ServerContext
    sockets: list[socket.socket]
    shared: bool
    """Whether other workers accept from the same sockets."""
    log: TextIO | None
    complain: Callable[[str], None]
    page: OrderPage = field(default_factory=OrderPage)
    """What the supervisor orders."""


def part_of(config: Config, workers: int) -> Config:
    """Return the configuration of one of ``workers``: it takes its part of the connections, rounded up."""
    return replace(config, max_connections=-(-config.max_connections // workers))


class Worker:
    """One worker's life. :meth:`run` returns when it has drained."""

    def __init__(self, job: Job, channel: Channel, poller: Poller) -> None:
        """Prepare; nothing is accepted yet. ``poller``: the selector of the loop that it will run in."""
        self._job = job
        self._channel = channel
        self._server = Server(
            job.config, job.lib, job.log, job.complain, job.context, self._mode_changed, job.page, poller=poller
        )
        self._serving = False
        self._prepared: ServerContext | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._drain: asyncio.Task[None] | None = None
        self._done: asyncio.Event | None = None

    async def run(self) -> None:
        """Serve until told to drain."""
        self._done = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._channel.attach(loop, self._received, self._orphaned)
        reporter = loop.create_task(self._report())
        await self._done.wait()
        reporter.cancel()
        self._channel.send(self._counts())
        self._channel.finish(_LAST_WORDS_S)

    # --- messages -------------------------------------------------------------------------------------------

    def _received(self, message: Message) -> None:
        try:
            answer = self._obey(message)
        except KtlsError as error:
            answer = {"ok": False, "code": error.code, "message": error.message}
        self._channel.send({"id": message["id"], **answer})

    def _obey(self, message: Message) -> Message:
        verb = message["verb"]
        if verb == "mode":
            self._order(message)
            return {"ok": True}
        if verb == "counts":
            return {"ok": True, **self._counts()}
        if verb == "prepare":
            self._prepared = self._prepare(b64decode(message["ticket_keys"]), message["digest"])
            return {"ok": True}
        if verb == "commit":
            if self._prepared is not None:
                self._server.use(self._prepared)
            self._prepared = None
            return {"ok": True}
        if verb == "drain":
            self._start_drain(message["seconds"])
            return {"ok": True}
        raise KtlsError("bad_verb", f"a worker knows no verb {verb!r}")

    def _order(self, message: Message) -> None:
        """What an order means for older connections; new ones have it since it was written to the page."""
        self._server.mode.effective()
        if message["generation"] == self._server.mode.generation:
            self._server.leave.until = message["drain_until"]
        self._serve()

    def _prepare(self, ticket_keys: bytes, digest: str) -> ServerContext:
        """Load what the supervisor has loaded. Raises KtlsError, also when the files are others by now."""
        config = self._job.config
        before = certificates.digest(config)
        context = self._server.load_again(ticket_keys)
        if not before == certificates.digest(config) == digest:
            raise KtlsError("bad_certificate", "certificate or key changed while they were read; reload again")
        return context

    def _serve(self) -> None:
        if not self._serving:
            self._serving = True
            self._beginning = asyncio.get_running_loop().create_task(self._begin())

    async def _begin(self) -> None:
        await self._server.start(self._job.sockets, self._job.shared)
        self._channel.send({"event": "serving"})

    def _mode_changed(self, mode: str) -> None:
        if mode == USERSPACE and self._job.page.read().mode != USERSPACE:
            # A flag, seen here first and perhaps only here: the others have to end their order too.
            self._channel.send({"event": "off", "generation": self._server.mode.generation})

    def _counts(self) -> Message:
        return {"event": "counts", "counts": self._server.counters.snapshot()}

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_EVERY_S)
            self._channel.send(self._counts())

    # --- the end --------------------------------------------------------------------------------------------

    def _start_drain(self, seconds: float) -> None:
        if self._drain is None:
            self._drain = asyncio.get_running_loop().create_task(self._drained(seconds))
        elif seconds <= 0:
            self._server.cut()

    async def _drained(self, seconds: float) -> None:
        try:
            await self._server.drain(seconds)
        finally:
            assert self._done is not None  # run() made it
            self._done.set()

    def _orphaned(self) -> None:
        os._exit(1)


def work(job: Job, channel: Channel) -> int:
    """Be a worker until it ends. Returns the exit status of the process."""
    try:
        loop, poller = new_loop()
        asyncio.set_event_loop(loop)
        with contextlib.closing(loop), contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(Worker(job, channel, poller).run())
    except KtlsError as error:
        job.complain(error.message)
        return 1
    return 0
