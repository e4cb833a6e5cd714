# SPDX-License-Identifier: Apache-2.0
"""Measure on this host which TLS runs in the kernel and what a KeyUpdate does to it; run as root, prints JSON.

    PYTHONPATH=PARENT python3 -m guest.matrix [--cipher NAME ...] [--userspace]

``--cipher`` measures only these suites; ``--userspace`` does not ask for kTLS, as a control of the measurement.

A server of its own on the system's libssl, over a real TCP loopback connection, talks to the program
``openssl s_client``, which does its TLS in userspace and verifies the certificate and the name. That a direction is
in the kernel is the kernel's word (``getsockopt(SOL_TLS)`` and ``/proc/net/tls_stat``), that a KeyUpdate was on the
wire is the peer's (``-msg``), and data is compared byte by byte at both ends.

Every connection has its own time limit, and all of it a network namespace of its own, so that the counters are about
these connections alone. Standard library only. Nothing of ktls-fleet is imported, on purpose: the preflight probe
measures the same in another way, and a test compares the two.

Facts from: linux/tls.h and Documentation/networking/tls.rst; SSL_CTX_set_options(3); RFC 8446 section 4.6.3.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .ends import BrokenError, Library, Peer, Server, certificates

SUITES = (  # version, OpenSSL's name of the suite, cipher number in linux/tls.h
    ("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", 51),
    ("TLSv1.2", "ECDHE-ECDSA-AES256-GCM-SHA384", 52),
    ("TLSv1.2", "ECDHE-ECDSA-CHACHA20-POLY1305", 54),
    ("TLSv1.2", "ECDHE-ECDSA-AES128-CCM", 53),
    ("TLSv1.3", "TLS_AES_128_GCM_SHA256", 51),
    ("TLSv1.3", "TLS_AES_256_GCM_SHA384", 52),
    ("TLSv1.3", "TLS_CHACHA20_POLY1305_SHA256", 54),
    ("TLSv1.3", "TLS_AES_128_CCM_SHA256", 53),
)
PROTOCOLS = {"TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
MODES = ("tx", "rx")
"""``tx``: the read side is a memory BIO, so only sending can move. ``rx``: SSL_set_fd(3), both may."""
ACTIONS = {  # KeyUpdate messages that the peer must have (sent, received) for the measurement to mean anything
    "peer": (1, 0),
    "peer_requested": (1, 1),
    "own": (0, 1),
}
LIMIT_S = 12.0
"""For one connection, which takes half a second under software emulation; all 32 may hang, and it still ends."""
PAYLOAD = 40_000  # bytes each way and time: three records at least, one holds 2**14 (RFC 8446 section 5.1)

SSL_OP_ENABLE_KTLS = 1 << 3
SSL_CTRL_SET_MIN_PROTO_VERSION, SSL_CTRL_SET_MAX_PROTO_VERSION = 123, 124
SSL_FILETYPE_PEM = 1
CLONE_NEWNET = 0x40000000


def tls_stat() -> dict[str, int]:
    """The kernel's counters by name."""
    lines = Path("/proc/net/tls_stat").read_text(encoding="ascii").splitlines()
    return {name: int(value) for name, value in (line.split() for line in lines)}


def to_server(server: Server, peer: Peer) -> None:
    """Data from the peer, compared. Raises :class:`BrokenError`."""
    # Hexadecimal in lower case: no read of s_client can begin with one of its commands.
    sent = os.urandom(PAYLOAD // 2).hex().encode()
    peer.send(sent)
    if server.read(len(sent)) != sent:
        raise BrokenError("read: wrong bytes")


def to_peer(server: Server, peer: Peer) -> None:
    """Data to the peer, compared. Raises :class:`BrokenError`."""
    sent = os.urandom(PAYLOAD // 2).hex().encode()
    server.write(sent)
    peer.wait("out", sent, "the peer waits for data")


class Cell:
    """One version, cipher and mode."""

    def __init__(
        self, library: Library, directory: Path, suite: tuple[str, str, int], mode: str, ktls: bool = True
    ) -> None:
        """Keep what is measured; ``ktls``: ask for it."""
        self.library, self.directory, self.mode, self.ktls = library, directory, mode, ktls
        self.version, self.cipher, self.number = suite

    @contextmanager
    def context(self) -> Iterator[int]:
        """A server's context for this suite only; 0 when this OpenSSL does not know the suite."""
        lib = self.library
        pointer = lib.SSL_CTX_new(lib.TLS_server_method())
        # Not what openssl.cnf may say.
        (lib.SSL_CTX_set_options if self.ktls else lib.SSL_CTX_clear_options)(pointer, SSL_OP_ENABLE_KTLS)
        for command in (SSL_CTRL_SET_MIN_PROTO_VERSION, SSL_CTRL_SET_MAX_PROTO_VERSION):
            lib.SSL_CTX_ctrl(pointer, command, PROTOCOLS[self.version], None)
        choose = lib.SSL_CTX_set_ciphersuites if self.version == "TLSv1.3" else lib.SSL_CTX_set_cipher_list
        known = choose(pointer, self.cipher.encode()) == 1
        certificate, key = (str(self.directory / name).encode() for name in ("server.pem", "server.key"))
        assert lib.SSL_CTX_use_certificate_chain_file(pointer, certificate) == 1, lib.reason()
        assert lib.SSL_CTX_use_PrivateKey_file(pointer, key, SSL_FILETYPE_PEM) == 1, lib.reason()
        try:
            yield pointer if known else 0
        finally:
            lib.SSL_CTX_free(pointer)

    def measure(self) -> dict[str, Any]:
        """All of the cell."""
        cell: dict[str, Any] = {"version": self.version, "cipher": self.cipher, "mode": self.mode, "offered": False}
        cell.update(tx=False, rx=False, data="unknown to this OpenSSL", key_update=None)
        with self.context() as context:
            if not context:
                return cell
            actions: tuple[str | None, ...] = tuple(ACTIONS) if self.version == "TLSv1.3" else (None,)
            runs = [self.connection(context, action) for action in actions]
        bases, outcomes = [run[:-1] for run in runs], [run[-1] for run in runs]
        tx, rx, data = bases[0]
        if any(base != bases[0] for base in bases):
            data = f"differs between connections: {bases}"
        cell.update(offered=True, tx=tx, rx=rx, data=data)
        if self.version == "TLSv1.3":
            cell["key_update"] = dict(zip(ACTIONS, outcomes))
        return cell

    def connection(self, context: int, action: str | None) -> tuple[bool, bool, str, str | None]:
        """(tx, rx, what became of data, what became of it after ``action``) of one connection."""
        deadline = time.monotonic() + LIMIT_S
        kernel: dict[str, tuple[int, int]] = {}
        before = tls_stat()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = Peer(self.directory, listener.getsockname()[1], self.version, self.cipher, deadline)
            try:
                listener.settimeout(LIMIT_S)
                server = Server(self.library, context, listener.accept()[0], self.mode, deadline)
            except OSError:
                peer.end()
                return False, False, f"peer: {peer.error() or 'did not connect'}", None
        try:
            try:
                if server.handshake() != (self.version, self.cipher):
                    raise BrokenError("handshake: another suite")
                peer.wait("err", b"Verification: OK", "the peer's handshake")
                kernel = server.kernel()
                to_server(server, peer)
                to_peer(server, peer)
                self.check_kernel(kernel, before)
            except BrokenError as error:
                return "tx" in kernel, "rx" in kernel, str(error), None
            outcome = self.after(server, peer, action, kernel) if action else None
            return "tx" in kernel, "rx" in kernel, "ok", outcome
        finally:
            server.end()
            peer.end()

    def check_kernel(self, kernel: dict[str, tuple[int, int]], before: dict[str, int]) -> None:
        """The socket's word and the counters' word must be the same."""
        now = tls_stat()
        expected = PROTOCOLS[self.version], self.number
        for direction, counter in (("tx", "TlsTxSw"), ("rx", "TlsRxSw")):
            if now[counter] - before[counter] != (direction in kernel):
                raise BrokenError(f"{counter} contradicts getsockopt")
            if kernel.get(direction, expected) != expected:
                raise BrokenError(f"the kernel has another version or cipher: {kernel[direction]}")

    def after(self, server: Server, peer: Peer, action: str, kernel: dict[str, tuple[int, int]]) -> str:
        """Do ``action`` and tell what became of the connection."""
        before = tls_stat()
        try:
            if action == "own":
                server.key_update()
                to_peer(server, peer)
            else:
                peer.send(b"K\n" if action == "peer_requested" else b"k\n")
                # Sent alone and waited for: a command swallows what was read with it.
                peer.wait("err", b"KEYUPDATE", "the peer's command")
            for _ in range(2):
                to_server(server, peer)
                to_peer(server, peer)
            if peer.key_updates() != ACTIONS[action]:
                raise BrokenError(f"the peer sent and received {peer.key_updates()} KeyUpdates")
            if server.kernel() != kernel:
                raise BrokenError("no longer in the kernel")
            self.check_rekeys(kernel, action, before)
        except BrokenError as error:
            return str(error) if str(error).startswith("hangs") else f"breaks: {error}"
        return "ok" if kernel else "userspace"

    @staticmethod
    def check_rekeys(kernel: dict[str, tuple[int, int]], action: str, before: dict[str, int]) -> None:
        """A direction that the kernel does has new keys exactly when its sender sent a KeyUpdate."""
        now = tls_stat()
        sent, received = ACTIONS[action]
        for counter, expected in (
            ("TlsTxRekeyOk", received if "tx" in kernel else 0),
            ("TlsRxRekeyOk", sent if "rx" in kernel else 0),
        ):
            if now.get(counter, 0) - before.get(counter, 0) != expected:
                raise BrokenError(f"{counter} did not rise by {expected}")


def enter_namespace() -> None:
    """Leave the host's network for one of our own; unshare(2), ip-link(8)."""
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=30)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--cipher", action="append", choices=[suite[1] for suite in SUITES])
    parser.add_argument("--userspace", action="store_true")
    options = parser.parse_args()
    subprocess.run(["modprobe", "tls"], check=True, timeout=30)
    enter_namespace()
    library = Library()
    cells = []
    with tempfile.TemporaryDirectory() as directory:
        certificates(Path(directory))
        for suite in SUITES:
            for mode in MODES if suite[1] in (options.cipher or suite) else ():
                started = time.monotonic()
                cells.append(Cell(library, Path(directory), suite, mode, ktls=not options.userspace).measure())
                print(f"{time.monotonic() - started:5.1f} s {cells[-1]}", file=sys.stderr, flush=True)
    found = {"kernel": os.uname().release, "openssl": library.OpenSSL_version(0).decode(), "cells": cells}
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
