# SPDX-License-Identifier: Apache-2.0
"""One request on a socket that systemd accepted: who asks, which verb, one answer."""

from __future__ import annotations

import importlib
import json
import os
import pwd
import socket
import struct
import sys
import time
from collections.abc import Collection, Mapping
from typing import Any, Callable

from ktls_host.errors import KtlsError

NAMES = ("lease", "module", "nic", "nginx", "service")
AGENT_USER = "ktls-agent"
READ_TIMEOUT_S = 2.0
MAX_REQUEST = 256
TOWARDS_KTLS = ("on", "load", "tx", "rx")  # not done for somebody who has gone: nobody would take it back
_PASSED_FD = 3  # sd_listen_fds(3): the first descriptor passed
_PEERCRED = struct.Struct("3i")  # struct ucred, unix(7)

Verbs = Mapping[str, Callable[[], dict[str, Any]]]


def main(name: str) -> int:
    """Answer the one request on the connection that systemd passed, as helper ``name``.

    Raises :class:`KtlsError` ``bad_request`` when it was started by hand.
    """
    if name not in NAMES:
        raise KtlsError("bad_request", f"there is no helper {name!r}; there are {', '.join(NAMES)}")
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        raise KtlsError("bad_request", f"this helper is started by ktls-{name}-helper.socket, not by hand")
    with socket.socket(fileno=_PASSED_FD) as connection:
        converse(connection, name, lambda: verbs_of(name), allowed_uids())
    return 0


def verbs_of(name: str) -> Verbs:
    """Return the verbs of one helper; what the others need is not even imported."""
    verbs: Verbs = importlib.import_module(f".{name}", __package__).VERBS
    return verbs


def allowed_uids() -> frozenset[int]:
    """Return who may ask: root and the agent. That the socket's mode says the same is the first lock, not the only."""
    try:
        return frozenset({0, pwd.getpwnam(AGENT_USER).pw_uid})
    except KeyError:
        return frozenset({0})


def converse(connection: socket.socket, name: str, verbs: Callable[[], Verbs], allowed: Collection[int]) -> None:
    """Answer one request; what was asked, by whom, and what came of it goes to the journal."""
    pid, uid, _ = _PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    verb = "?"
    try:
        if uid not in allowed:
            raise KtlsError("not_permitted", f"helper {name} works for root and {AGENT_USER}, not for uid {uid}")
        known = verbs()
        verb = _verb(_line(connection), known)
        if verb in TOWARDS_KTLS:
            _refuse_unheard(connection)
        reply: dict[str, Any] = {"ok": True, **known[verb]()}
        outcome = "ok"
    except KtlsError as error:
        reply = {"ok": False, "error": error.as_dict()}
        outcome = f"{error.code}: {error.message}"
    except OSError as error:
        reply = {"ok": False, "error": {"code": "failed", "message": f"helper {name}: {error}; see its journal"}}
        outcome = str(error)
    print(f"{name} {verb} for uid {uid} (pid {pid}): {outcome}", file=sys.stderr)
    try:
        connection.settimeout(READ_TIMEOUT_S)
        connection.sendall(json.dumps(reply).encode() + b"\n")
    except OSError:
        return  # the peer left: nobody to tell


def _line(connection: socket.socket) -> bytes:
    deadline = time.monotonic() + READ_TIMEOUT_S
    data = b""
    while not data.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or len(data) > MAX_REQUEST:
            raise KtlsError("bad_request", f"send one line of at most {MAX_REQUEST} bytes within {READ_TIMEOUT_S:g} s")
        connection.settimeout(left)
        try:
            chunk = connection.recv(MAX_REQUEST + 1)
        except socket.timeout:
            continue
        if not chunk:
            raise KtlsError("bad_request", "the connection ended before its request")
        data += chunk
    return data


def _refuse_unheard(connection: socket.socket) -> None:
    """Raise if whoever asked has left meanwhile: it was killed, or has given this up."""
    connection.setblocking(False)  # with a time limit Python would wait for it, and call that an error
    try:
        gone = connection.recv(1, socket.MSG_PEEK) == b""
    except (BlockingIOError, InterruptedError):
        gone = False
    except OSError:
        gone = True
    if gone:
        raise KtlsError("abandoned", "whoever asked has left; nothing was switched on")


def _verb(line: bytes, verbs: Verbs) -> str:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise KtlsError("bad_request", "the request is not one line of JSON") from error
    if not isinstance(request, dict) or set(request) != {"verb"}:
        raise KtlsError("bad_request", 'the request is not {"verb": ...} and nothing else')
    verb = request["verb"]
    if not isinstance(verb, str) or verb not in verbs:
        raise KtlsError("bad_verb", f"unknown verb; use one of {', '.join(sorted(verbs))}")
    return verb
