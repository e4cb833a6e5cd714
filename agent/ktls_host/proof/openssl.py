# SPDX-License-Identifier: Apache-2.0
"""The proof: which direction, version and cipher this OpenSSL puts into this kernel, and what new keys do to it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Optional

from .. import isolated, ulp_probe
from . import library as c
from .connection import BrokenError, Pair
from .library import Library, LibraryError

TIMEOUT_S = 25.0  # a few seconds at most on an idle host, under emulation too
#: (version, OpenSSL's name of the suite, the kernel's cipher)
SUITES = (
    ("TLSv1.3", "TLS_AES_256_GCM_SHA384", "aes-gcm-256"),
    ("TLSv1.3", "TLS_AES_128_GCM_SHA256", "aes-gcm-128"),
    ("TLSv1.3", "TLS_CHACHA20_POLY1305_SHA256", "chacha20-poly1305"),
    ("TLSv1.3", "TLS_AES_128_CCM_SHA256", "aes-ccm-128"),
    ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384", "aes-gcm-256"),
    ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", "aes-gcm-128"),
    ("TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305", "chacha20-poly1305"),
    ("TLSv1.2", "ECDHE-ECDSA-AES128-CCM", "aes-ccm-128"),
)
_VERSIONS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}  # RFC 8446 section 4.2.1
KEY_UPDATES = ("peer", "peer_requested", "own")
_NO_CIPHERS = "no ciphers available"  # SSL_R_NO_CIPHERS_AVAILABLE: the name is known, the algorithm is not there (FIPS)
KeyUpdates = Optional[dict[str, str]]  # evaluated at run time, where Python 3.9 has no X | None


@dataclass(frozen=True)
class Cell:
    """One version and cipher. ``tx``: with the read side in userspace, the kernel encrypted and all data arrived.

    ``rx``: with both sides offered, the kernel decrypted too and all data arrived. ``reason`` says why not, for the
    first of the two that is not so. ``key_update`` has ``ok`` or ``breaks: WHY`` for each of :data:`KEY_UPDATES` by
    ``tx`` and ``rx``; ``None`` where that direction is not in the kernel, and for TLS 1.2, which has no such thing.
    """

    version: str
    cipher: str
    kernel_cipher: str
    offered: bool
    tx: bool
    rx: bool
    reason: str | None
    key_update: dict[str, KeyUpdates]


@dataclass(frozen=True)
class Proof:
    """``done`` is true when every cell was tried; else ``why`` says what stopped it."""

    done: bool = False
    why: str | None = None
    library: str | None = None
    cells: tuple[Cell, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "cells": [asdict(cell) for cell in self.cells]}


def probe(ulp_available: bool) -> Proof:
    """Try it. With ``ulp_available`` false nothing is tried: root's first request would load the module."""
    if not ulp_available:
        return Proof(why="module tls is not loaded")
    outcome = isolated.call(_prove, TIMEOUT_S)
    library = outcome.answers[0]["library"] if outcome.answers else None
    cells = tuple(Cell(**answer) for answer in outcome.answers[1:])
    if outcome.done:
        return Proof(True, None, library, cells)
    return Proof(
        False, f"the proof ended with {outcome.ended} after {len(cells)} of {len(SUITES)} ciphers", library, cells
    )


def _prove(emit: isolated.Emit) -> None:
    isolated.own_network()
    lib = Library()
    emit({"library": lib.version})
    key, certificate = lib.certificate()
    for version, cipher, kernel_cipher in SUITES:
        emit(asdict(_cell(lib, key, certificate, version, cipher, kernel_cipher)))


def _cell(lib: Library, key: int, certificate: int, version: str, cipher: str, kernel_cipher: str) -> Cell:
    contexts: list[int] = []
    try:
        try:
            server = _server_context(lib, key, certificate, version, cipher, contexts)
            client = _client_context(lib, certificate, version, cipher, contexts)
        except LibraryError as error:
            nothing: dict[str, KeyUpdates] = {"tx": None, "rx": None}
            return Cell(version, cipher, kernel_cipher, False, False, False, str(error), nothing)
        tries = {mode: _direction(lib, server, client, receive=mode == "rx") for mode in ("tx", "rx")}
        updates = {
            mode: _key_updates(lib, server, client, receive=mode == "rx")
            if version == "TLSv1.3" and tries[mode] is None
            else None
            for mode in ("tx", "rx")
        }
    finally:
        for context in contexts:
            lib.SSL_CTX_free(context)
    reason = tries["tx"] or tries["rx"]
    offered = _NO_CIPHERS not in (reason or "")
    return Cell(version, cipher, kernel_cipher, offered, tries["tx"] is None, tries["rx"] is None, reason, updates)


def _direction(lib: Library, server: int, client: int, *, receive: bool) -> str | None:
    """Return ``None`` when the kernel does its part and data arrives whole, else what is wrong."""
    try:
        pair = Pair(lib, server, client, receive=receive)
    except (BrokenError, LibraryError) as error:
        return str(error)
    try:
        direction = ulp_probe.TLS_RX if receive else ulp_probe.TLS_TX
        if not pair.server.in_kernel(direction):
            return f"{'receive' if receive else 'transmit'} side stays in userspace"
        pair.check()
    except BrokenError as error:
        return str(error)
    finally:
        pair.close()
    return None


def _key_updates(lib: Library, server: int, client: int, *, receive: bool) -> dict[str, str]:
    """Try each kind; a connection that outlived one serves for the next."""
    said: dict[str, str] = {}
    pair = None
    for kind in KEY_UPDATES:
        try:
            pair = pair or Pair(lib, server, client, receive=receive)
            sender = pair.server if kind == "own" else pair.client
            asks = c.SSL_KEY_UPDATE_REQUESTED if kind == "peer_requested" else c.SSL_KEY_UPDATE_NOT_REQUESTED
            pair.key_update(sender, asks)
            said[kind] = "ok" if pair.server.in_kernel(ulp_probe.TLS_TX) else "breaks: left the kernel"
        except (BrokenError, LibraryError) as error:
            said[kind] = f"breaks: {error}"
        if said[kind] != "ok" and pair is not None:
            pair.close()
            pair = None
    if pair is not None:
        pair.close()
    return said


def _context(lib: Library, method: str, version: str, cipher: str, contexts: list[int]) -> int:
    context = int(lib.require("SSL_CTX_new", getattr(lib, method)()))
    contexts.append(context)
    for control in (c.SSL_CTRL_SET_MIN_PROTO_VERSION, c.SSL_CTRL_SET_MAX_PROTO_VERSION):
        lib.require("SSL_CTX_ctrl", context, control, _VERSIONS[version], None)
    # The host's configuration may ask for kTLS everywhere; here only the server's connections do.
    lib.SSL_CTX_clear_options(context, c.SSL_OP_ENABLE_KTLS)
    setter = "SSL_CTX_set_ciphersuites" if version == "TLSv1.3" else "SSL_CTX_set_cipher_list"
    lib.require(setter, context, cipher.encode())
    return context


def _server_context(lib: Library, key: int, certificate: int, version: str, cipher: str, contexts: list[int]) -> int:
    context = _context(lib, "TLS_server_method", version, cipher, contexts)
    lib.require("SSL_CTX_use_certificate", context, certificate)
    lib.require("SSL_CTX_use_PrivateKey", context, key)
    return context


def _client_context(lib: Library, certificate: int, version: str, cipher: str, contexts: list[int]) -> int:
    context = _context(lib, "TLS_client_method", version, cipher, contexts)
    lib.require("X509_STORE_add_cert", lib.SSL_CTX_get_cert_store(context), certificate)
    lib.SSL_CTX_set_verify(context, c.SSL_VERIFY_PEER, None)
    return context
