# SPDX-License-Identifier: Apache-2.0
"""One attempt to deliver one message: a POST over verified TLS. No redirects are followed, nothing waits for ever."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import ssl
import threading
import time
import urllib.request
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from .config import Endpoint
from .sign import headers
from .triggers import Message


@dataclass(frozen=True)
class Tried:
    """How an attempt ended.

    :param error: why it failed, in a few words; None: delivered.
    :param again: another attempt may help.
    """

    error: str | None
    again: bool = False


def attempt(endpoint: Endpoint, message: Message, limit_s: float) -> Tried:
    """Try once, for ``limit_s`` seconds in all.

    What a resolver or a peer that sends a byte now and then can do is not bounded by the time limits of sockets, so a
    thread does it, and is left behind when its time is over.
    """
    found: list[Tried] = []
    connection = _connection(endpoint, limit_s)

    def work() -> None:
        found.append(_post(connection, endpoint, message))

    thread = threading.Thread(target=work, name=f"webhook-{endpoint.name}", daemon=True)
    thread.start()
    thread.join(limit_s)
    if found:
        return found[0]
    with contextlib.suppress(OSError, AttributeError):
        # Wakes the thread, if it waits for the peer.
        connection.sock.shutdown(socket.SHUT_RDWR)
    return Tried(f"no answer within {limit_s:g} s", again=True)


def _connection(endpoint: Endpoint, limit_s: float) -> http.client.HTTPSConnection:
    parts = urlsplit(endpoint.url)
    host, port = str(parts.hostname), parts.port or 443
    context = ssl.create_default_context(cafile=endpoint.ca_file)
    proxy = urllib.request.getproxies().get("https")
    if not proxy or urllib.request.proxy_bypass(host):
        return http.client.HTTPSConnection(host, port, timeout=limit_s, context=context)
    through = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    connection = http.client.HTTPSConnection(
        str(through.hostname), through.port or 3128, timeout=limit_s, context=context
    )
    known = {}
    if through.username:
        pair = f"{unquote(through.username)}:{unquote(through.password or '')}"
        known["Proxy-Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    # TLS is with the receiver, through the proxy: its certificate is what is verified.
    connection.set_tunnel(host, port, known)
    return connection


def _post(connection: http.client.HTTPSConnection, endpoint: Endpoint, message: Message) -> Tried:
    parts = urlsplit(endpoint.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    body = json.dumps(message.body(), separators=(",", ":")).encode()
    signed = headers(endpoint.secret, message.id, int(time.time()), body)
    try:
        connection.request(
            "POST", target, body, {"Content-Type": "application/json", "User-Agent": "ktls-fleet", **signed}
        )
        status = connection.getresponse().status
    except ssl.SSLCertVerificationError as error:
        return Tried(f"certificate not accepted: {error.verify_message}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error) or type(error).__name__
        return Tried(" ".join(str(why).split())[:200], again=True)
    finally:
        connection.close()
    if 200 <= status < 300:
        return Tried(None)
    if 300 <= status < 400:
        return Tried(f"answered {status}: redirects are not followed, name the right url")
    return Tried(f"answered {status}", again=status == 429 or status >= 500)
