# SPDX-License-Identifier: Apache-2.0
"""What the kernel's TLS ULP takes: ciphers by direction and version, and new keys for a direction that has some.

Asked with keys of zeros on loopback sockets that carry nothing. Structures and numbers: include/uapi/linux/tls.h.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import asdict, dataclass, field
from typing import Any

from . import isolated

TCP_ULP, SOL_TLS, TLS_TX, TLS_RX = 31, 282, 1, 2
TLS_1_2, TLS_1_3 = 0x0303, 0x0304
#: name: (number in uapi linux/tls.h, bytes of iv + key + salt + sequence)
CIPHERS = {
    "aes-gcm-128": (51, 8 + 16 + 4 + 8),
    "aes-gcm-256": (52, 8 + 32 + 4 + 8),
    "aes-ccm-128": (53, 8 + 16 + 4 + 8),
    "chacha20-poly1305": (54, 12 + 32 + 0 + 8),
}
_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class UlpState:
    """``asked`` is false when nothing was tried, and ``why`` says why; then the rest is unknown.

    ``ciphers`` is ``{"TLSv1.3": {"aes-gcm-128": {"tx": true, "rx": true}}}``. ``rekey`` is by direction, true when
    the kernel takes a second key on a TLS 1.3 socket (since Linux 6.14, or a distribution's backport).
    """

    asked: bool = False
    why: str | None = None
    ciphers: dict[str, dict[str, dict[str, bool]]] = field(default_factory=dict)
    rekey: dict[str, bool] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return asdict(self)


def probe(ulp_available: bool) -> UlpState:
    """Ask the kernel. With ``ulp_available`` false nothing is asked: root's first request would load the module."""
    if not ulp_available:
        return UlpState(why="module tls is not loaded")
    outcome = isolated.call(_ask, _TIMEOUT_S)
    if not outcome.done or not outcome.answers:
        return UlpState(why=f"the question to the kernel ended with {outcome.ended}")
    answer = outcome.answers[0]
    return UlpState(True, None, answer["ciphers"], answer["rekey"])


def _ask(emit: isolated.Emit) -> None:
    isolated.own_network()
    directions = {"tx": TLS_TX, "rx": TLS_RX}
    ciphers = {
        name: {
            cipher: {word: _takes(version, cipher, direction) for word, direction in directions.items()}
            for cipher in CIPHERS
        }
        for name, version in (("TLSv1.2", TLS_1_2), ("TLSv1.3", TLS_1_3))
    }
    rekey = {word: _takes(TLS_1_3, "aes-gcm-128", direction, times=2) for word, direction in directions.items()}
    emit({"ciphers": ciphers, "rekey": rekey})


def _takes(version: int, cipher: str, direction: int, times: int = 1) -> bool:
    """Return whether a fresh socket takes the key, ``times`` times. A refusal is any errno but a broken probe's.

    Raises :class:`OSError` when the socket does not even take the ULP: then nothing is known about keys.
    """
    number, secrets = CIPHERS[cipher]
    client, server = connection()
    with client, server:
        server.setsockopt(socket.IPPROTO_TCP, TCP_ULP, b"tls")
        try:
            for _ in range(times):
                server.setsockopt(SOL_TLS, direction, struct.pack("=HH", version, number) + bytes(secrets))
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENOTSOCK, errno.ENOTCONN):
                raise
            return False
    return True


def connection() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection over loopback: the one that connected, the one that accepted."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        try:
            return client, listener.accept()[0]
        except OSError:
            client.close()
            raise
