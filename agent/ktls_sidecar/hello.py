# SPDX-License-Identifier: Apache-2.0
"""What a client can do, from the first message that it sends: whether TLS 1.2 with AES-GCM would serve it. Pure.

A network card takes TLS 1.2 with AES-GCM and nothing else (net/tls/tls_device.c, tls_set_device_offload). Whoever
consents to TLS 1.2 for that wants those clients moved that gain by it, and no other one broken or weakened: a client
that speaks TLS 1.3 alone, or that would end at ChaCha20 or CCM, keeps what it would have negotiated.
Layout: RFC 5246 sections 6.2.1 and 7.4.1.2, RFC 8446 sections 4.2.1 and 4.2.7.
"""

from __future__ import annotations

_HANDSHAKE, _CLIENT_HELLO = 22, 1
_TLS12, _TLS13 = 0x0303, 0x0304
_SUPPORTED_GROUPS, _SUPPORTED_VERSIONS = 10, 43
# ECDHE with AES-GCM of 128 and 256 bits, of context.DEFAULT_TLS12_CIPHERS, for each type of key that a server may have.
_SUITES = (frozenset({0xC02B, 0xC02C}), frozenset({0xC02F, 0xC030}))
_GROUPS = frozenset({23, 24, 29})  # secp256r1, secp384r1, x25519: what TLS 1.2 has an ECDHE with
_LONGEST = 65536  # what is longer is not looked at; OpenSSL takes up to 131396 bytes


class Hello:
    """Collects a ClientHello as it comes. ``able`` is None until it is known."""

    def __init__(self) -> None:
        """Start with nothing."""
        self.able: bool | None = None
        self._data = b""

    def take(self, data: bytes) -> None:
        """Take the next bytes from the socket."""
        if self.able is None:
            self._data += data
            self.able = gains(self._data) if len(self._data) <= _LONGEST else False
            if self.able is not None:
                self._data = b""


def gains(data: bytes) -> bool | None:
    """Return whether the client of the ClientHello at the start of ``data`` speaks TLS 1.3 and can do TLS 1.2 GCM.

    True: TLS 1.2 would be another protocol, and would serve. None: not all of it is here. What cannot be read is
    False: OpenSSL will say what is wrong with it.
    """
    try:
        message = _message(data)
        return None if message is None else _judge(message)
    except (IndexError, ValueError):
        return False


def _message(data: bytes) -> bytes | None:
    """Return the body of the ClientHello, which may be in several records."""
    body, at = b"", 0
    while len(data) >= at + 5:
        if data[at] != _HANDSHAKE:
            raise ValueError("not a handshake record")
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if not length:
            raise ValueError("an empty record")
        body += data[at + 5 : at + 5 + length]
        at += 5 + length
        if body and body[0] != _CLIENT_HELLO:
            raise ValueError("not a ClientHello")
        if len(body) >= 4 and len(body) >= 4 + int.from_bytes(body[1:4], "big"):
            return body[4 : 4 + int.from_bytes(body[1:4], "big")]
    return None


def _judge(hello: bytes) -> bool:
    at = 2 + 32
    at += 1 + hello[at]  # session id
    length = int.from_bytes(hello[at : at + 2], "big")
    suites = _numbers(hello[at + 2 : at + 2 + length])
    at += 2 + length
    at += 1 + hello[at]  # compression methods
    extensions = _extensions(hello[at:])
    versions = extensions.get(_SUPPORTED_VERSIONS)
    # Without the list of versions it is TLS 1.2 at most, and nothing has to be done.
    if versions is None or not {_TLS12, _TLS13} <= _numbers(versions[1 : 1 + versions[0]]):
        return False
    groups = extensions.get(_SUPPORTED_GROUPS)
    if groups is not None and not _GROUPS & _numbers(groups[2:]):
        return False
    return all(suites & kind for kind in _SUITES)


def _extensions(data: bytes) -> dict[int, bytes]:
    found, at = {}, 2
    end = 2 + int.from_bytes(data[:2], "big")
    while at < end:
        kind, length = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
        if at + 4 + length > len(data):
            raise ValueError("an extension is cut off")
        found[kind] = data[at + 4 : at + 4 + length]
        at += 4 + length
    return found


def _numbers(data: bytes) -> set[int]:
    return {int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data) - 1, 2)}
