# SPDX-License-Identifier: Apache-2.0
"""The section ``metrics`` of the agent's configuration."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ktls_host.errors import KtlsError

LOOPBACK = ("127.0.0.1", "::1")
TEXTFILE_MIN_S = 5.0


@dataclass(frozen=True)
class Listen:
    """A loopback address and a TCP port."""

    host: str
    port: int


@dataclass(frozen=True)
class Textfile:
    """A file for node_exporter's textfile collector, written every ``interval_s`` seconds."""

    path: str
    interval_s: float = 15.0


@dataclass(frozen=True)
class MetricsConfig:
    """Where metrics can be had. ``socket``: None is beside the agent's own socket."""

    socket: str | None = None
    listen: Listen | None = None
    textfile: Textfile | None = None

    def path(self, agent_socket: str) -> str:
        """Return where the metrics socket is, given the agent's own."""
        return self.socket or os.path.join(os.path.dirname(agent_socket), "metrics.sock")


def parse(raw: Any, source: str) -> MetricsConfig:
    """Check ``raw``; an empty object is the default. Raises :class:`KtlsError`: bad_config."""
    keys = _object(raw, source, "metrics", {"socket", "listen", "textfile"})
    path = keys.get("socket")
    if path is not None:
        path = _absolute(path, source, "metrics.socket")
    return MetricsConfig(path, _listen(keys.get("listen"), source), _textfile(keys.get("textfile"), source))


def _listen(raw: Any, source: str) -> Listen | None:
    if raw is None:
        return None
    keys = _object(raw, source, "metrics.listen", {"host", "port"})
    if keys.get("host") not in LOOPBACK:
        raise _bad(source, f"metrics.listen.host is not {' or '.join(LOOPBACK)}: metrics are not for the network")
    port = keys.get("port")
    if isinstance(port, bool) or not isinstance(port, int) or not 1 <= port <= 65535:
        raise _bad(source, "metrics.listen.port is not a port number")
    return Listen(keys["host"], port)


def _textfile(raw: Any, source: str) -> Textfile | None:
    if raw is None:
        return None
    keys = _object(raw, source, "metrics.textfile", {"path", "interval_s"})
    path = _absolute(keys.get("path"), source, "metrics.textfile.path")
    if not path.endswith(".prom"):
        raise _bad(source, "metrics.textfile.path does not end in .prom, and node_exporter would not read it")
    interval = keys.get("interval_s", Textfile.interval_s)
    if isinstance(interval, bool) or not isinstance(interval, (int, float)) or not TEXTFILE_MIN_S <= interval <= 3600:
        raise _bad(source, f"metrics.textfile.interval_s is not a number from {TEXTFILE_MIN_S:g} to 3600")
    return Textfile(path, float(interval))


def _object(raw: Any, source: str, name: str, allowed: set[str]) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise _bad(source, f"{name} is not an object")
    for key in raw:
        if key not in allowed:
            raise _bad(source, f"unknown key {name}.{key}")
    return raw


def _absolute(path: Any, source: str, name: str) -> str:
    if not isinstance(path, str) or not path.startswith("/") or "\0" in path:
        raise _bad(source, f"{name} is not an absolute path")
    return path


def _bad(source: str, what: str) -> KtlsError:
    return KtlsError("bad_config", f"{source}: {what}; correct it and restart the agent")
