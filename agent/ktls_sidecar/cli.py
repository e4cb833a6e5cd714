# SPDX-License-Identifier: Apache-2.0
"""The command ``ktls-sidecar``."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Sequence

from ktls_host.errors import KtlsError

from . import config
from .control import serve_control
from .notify import notify
from .openssl import UnsupportedOpenSSLError, load
from .server import Server
from .version import VERSION

EX_CONFIG = 78
"""sysexits.h: starting again without a change is useless."""
_CONFIG_CODES = frozenset({"bad_config", "bad_certificate", "unsupported_openssl", "no_such_group"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run until SIGTERM. Returns the exit status: 0, 1, or 78 when the configuration must change first."""
    parser = argparse.ArgumentParser(prog="ktls-sidecar", description="HTTPS file server that can use kernel TLS")
    parser.add_argument("--config", default="/etc/ktls/sidecar.json", help="JSON file (default: %(default)s)")
    parser.add_argument("--version", action="version", version=f"ktls-sidecar {VERSION}")
    options = parser.parse_args(argv)
    try:
        asyncio.run(_serve(config.load(options.config)))
    except UnsupportedOpenSSLError as error:
        return _fail("unsupported_openssl", str(error))
    except KtlsError as error:
        return _fail(error.code, error.message)
    return 0


def _fail(code: str, message: str) -> int:
    print(f"ktls-sidecar: {message}", file=sys.stderr, flush=True)
    return EX_CONFIG if code in _CONFIG_CODES else 1


async def _serve(settings: config.Config) -> None:
    os.umask(0o077)
    server = Server(settings, load(), log=sys.stdout)
    await server.start()
    try:
        control = await serve_control(server, settings.control_socket, settings.control_group)
    except BaseException:
        await server.drain(0)
        raise
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, _reload, server)
    notify("READY=1", f"STATUS=mode {server.mode.effective()}, port {server.port}")
    await stop.wait()
    notify("STOPPING=1", f"STATUS=draining for up to {settings.drain_s:g} s")
    await server.drain(settings.drain_s)
    await control.close()


def _reload(server: Server) -> None:
    try:
        server.reload()
    except KtlsError as error:
        server.counters.errors["reload_failed"] += 1
        print(f"ktls-sidecar: keeping the old certificate: {error.message}", file=sys.stderr, flush=True)
    else:
        print("ktls-sidecar: certificate and key read again", file=sys.stderr, flush=True)
