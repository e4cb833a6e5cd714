# SPDX-License-Identifier: Apache-2.0
"""Requests and answers as JSON lines over a Unix stream socket.

One request object a line, one answer object a line, each at most ``MAX_LINE`` bytes with its line feed. An
answer is ``{"ok": true, ...}`` or ``{"ok": false, "error": {"code", "message"}}``. The server names its peer
from the kernel (``SO_PEERCRED``, unix(7)), so authority needs no secret.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Union

from .errors import KtlsError
from .exchange import exchange

if TYPE_CHECKING:
    from .jsonserver import JsonServer

MAX_LINE = 64 * 1024
IDLE_TIMEOUT_S = 30.0

JsonObject = dict[str, Any]


class JsonSockError(KtlsError):
    """A call failed: ``unreachable``, ``timeout``, ``protocol``, or the code that the server gave."""


class RequestError(KtlsError):
    """Raised by a handler to refuse a request; code and message go to the peer as they are."""


class Peer(NamedTuple):
    """Who connected, as the kernel recorded it at connect time.

    ``connection`` numbers the connections of one server from 1 on, in the order in which they came; 0: not known.
    """

    pid: int
    uid: int
    gid: int
    connection: int = 0


Handler = Callable[[JsonObject, Peer], Union[JsonObject, Awaitable[JsonObject]]]


def call(path: str, request: JsonObject, timeout_s: float = 5.0) -> JsonObject:
    """Send ``request`` to the server at ``path`` and return its answer.

    ``timeout_s`` bounds the whole exchange in seconds. Raises :class:`JsonSockError`, also for an answer with
    ``"ok": false``.
    """
    try:
        line = exchange(path, encode(request), MAX_LINE, timeout_s, lambda data: b"\n" in data)
    except KtlsError as error:
        raise JsonSockError(error.code, error.message) from error
    return _checked(path, line)


def encode(message: JsonObject) -> bytes:
    """Return ``message`` as one line. Raises ``ValueError`` or ``TypeError``: not plain JSON, or too long."""
    line = json.dumps(message, allow_nan=False, separators=(",", ":")).encode("utf-8") + b"\n"
    if len(line) > MAX_LINE:
        raise ValueError(f"a message of {len(line)} bytes is over the limit of {MAX_LINE}")
    return line


def _checked(path: str, line: bytes) -> JsonObject:
    if len(line) > MAX_LINE:
        raise JsonSockError("protocol", f"the answer of {path} is longer than {MAX_LINE} bytes")
    if not line.endswith(b"\n") or line.count(b"\n") != 1:
        what = "more than one line" if line.count(b"\n") else "no complete line"
        raise JsonSockError("protocol", f"{path} answered {what} to one request; see the log of its service")
    try:
        answer = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise JsonSockError("protocol", f"the answer of {path} is not JSON: {error}") from error
    if not isinstance(answer, dict) or not isinstance(answer.get("ok"), bool):
        raise JsonSockError("protocol", f"the answer of {path} is not an object with a boolean 'ok'")
    if answer["ok"]:
        return answer
    error_part = answer.get("error")
    if not isinstance(error_part, dict) or not error_part.get("code"):
        raise JsonSockError("protocol", f"{path} refused the request without saying why")
    raise JsonSockError(str(error_part["code"]), str(error_part.get("message") or error_part["code"]))


async def serve_unix(
    path: str,
    handler: Handler,
    mode: int = 0o660,
    group: str | None = None,
    idle_timeout_s: float = IDLE_TIMEOUT_S,
) -> JsonServer:
    """Serve ``handler`` at ``path`` until the returned server is closed; see :mod:`ktls_host.jsonserver`.

    It lives there because asyncio takes a noticeable part of a second to import on a slow machine, and a client has
    no use for it.
    """
    from .jsonserver import listen

    return await listen(path, handler, mode, group, idle_timeout_s)
