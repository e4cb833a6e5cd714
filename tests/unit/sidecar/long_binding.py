# SPDX-License-Identifier: Apache-2.0
"""Whole lives of connections of the binding, over and over, watching memory and descriptors.

``python -m tests.unit.sidecar.long_binding --seconds 60`` from the repository's root, with ``agent`` and ``control``
on PYTHONPATH; the unit tests run a short form. What may not grow after the warm-up: descriptors, blocks of the
interpreter's allocator, bytes that malloc has given out (mallinfo2(3), where glibc has it), resident memory.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import itertools
import os
import ssl
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ktls_sidecar.openssl import WANT_WRITE, OpenSSLError, ServerContext, TlsError, load
from tests.unit.sidecar.openssl_support import VERSIONS, Authority, Pair

MALLOC_SLACK = 64 * 1024
BLOCK_SLACK = 300
RSS_SLACK = 8 * 1024 * 1024
"""What may be added in any number of lives. An SSL lost in each of 200 lives would be 6 MiB of malloc."""


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(f"field{index}", ctypes.c_size_t) for index in range(10)]


@dataclass
class Use:
    """What this process holds."""

    descriptors: int
    blocks: int
    malloc: int
    resident: int

    @classmethod
    def now(cls) -> Use:
        """Measure, after a collection."""
        gc.collect()
        with open("/proc/self/statm") as statm:
            resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return cls(len(os.listdir("/proc/self/fd")), sys.getallocatedblocks(), _malloced(), resident)

    def growth(self, before: Use) -> list[str]:
        """Name what grew too much since ``before``."""
        limits = {"descriptors": 0, "blocks": BLOCK_SLACK, "malloc": MALLOC_SLACK, "resident": RSS_SLACK}
        found = {name: getattr(self, name) - getattr(before, name) for name in limits}
        return [f"{name} grew by {amount}" for name, amount in found.items() if amount > limits[name]]


def _malloced() -> int:
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    # uordblks and hblkhd: in the arenas, and mapped.
    return int(info.field7 + info.field4)


class Lives:
    """Contexts that stay, and the kinds of lives that connections have."""

    def __init__(self, directory: Path) -> None:
        """Make certificates and a file below ``directory``."""
        self.lib = load()
        self.authority = Authority(directory)
        self.files = self.authority.pair("localhost")
        self.context = ServerContext(self.lib, *self.files)
        other = self.authority.context(self.lib, "other.example")
        self.context.choose_by_name(self._select)
        self._choices: dict[str | None, ServerContext] = {"other.example": other}
        self._client = self.authority.client()
        self._data = os.urandom(50000)
        self._path = directory / "file"
        self._path.write_bytes(self._data)
        self.done = 0

    @property
    def kinds(self) -> list[Callable[[ssl.TLSVersion, bool], None]]:
        """Each takes a version and whether the server reads from the socket."""
        return [
            self.plain,
            self.switched,
            self.key_updates,
            self.sendfile,
            self.blocked,
            self.unfinished,
            self.garbage,
            self.client_leaves,
            self.select_fails,
            self.reload,
            self.misuse,
        ]

    def run(self, seconds: float) -> None:
        """Go through all kinds, versions and directions until ``seconds`` are over, and at least once."""
        end = time.monotonic() + seconds
        for kind, version, rx in itertools.cycle(itertools.product(self.kinds, VERSIONS, (False, True))):
            kind(version, rx)
            self.done += 1
            if time.monotonic() > end and self.done >= len(self.kinds) * 4:
                return

    def plain(self, version: ssl.TLSVersion, rx: bool) -> None:
        pair = self._pair(version, rx)
        assert pair.to_server(self._data) == self._data
        assert pair.tls.write_bytes(self._data) == len(self._data)
        assert pair.at_client(len(self._data)) == self._data
        _ = pair.tls.alpn, pair.tls.server_name, pair.tls.resumed, pair.tls.cipher, pair.tls.version
        pair.tls.shutdown()
        pair.move()
        assert pair.client.read(1) == b""
        pair.close()

    def switched(self, version: ssl.TLSVersion, rx: bool) -> None:
        pair = self._pair(version, rx, "other.example")
        assert pair.served_name() == "other.example"
        pair.close()

    def key_updates(self, version: ssl.TLSVersion, rx: bool) -> None:
        pair = self._pair(version, rx)
        for request_peer in (True, False):
            if version == ssl.TLSVersion.TLSv1_3:
                pair.tls.key_update(request_peer)
            else:
                with contextlib.suppress(OpenSSLError):
                    pair.tls.key_update(request_peer)
            assert pair.tls.write_bytes(b"x") == 1
            assert pair.at_client(1) == b"x"
            assert pair.to_server(b"y") == b"y"
        pair.close()

    def sendfile(self, version: ssl.TLSVersion, rx: bool) -> None:
        pair = self._pair(version, rx)
        with open(self._path, "rb") as file, contextlib.suppress(TlsError):
            pair.tls.sendfile(file.fileno(), 0, 1000)
            raise AssertionError("kTLS cannot be on here")
        pair.close()

    def blocked(self, version: ssl.TLSVersion, rx: bool) -> None:
        pair = self._pair(version, rx)
        buffer = ctypes.create_string_buffer(self._data, len(self._data))
        while pair.tls.write(buffer, len(buffer)) != WANT_WRITE:
            pass
        pair.close()

    def unfinished(self, version: ssl.TLSVersion, rx: bool) -> None:
        pair = Pair(self.context, self._client, version, rx=rx)
        with contextlib.suppress(ssl.SSLWantReadError):
            pair.client.do_handshake()
        pair.move(100)
        pair.tls.handshake()
        pair.close()
        del pair
        forgotten = Pair(self.context, self._client, version, rx=rx)
        forgotten.ours.close()
        forgotten.theirs.close()

    def garbage(self, version: ssl.TLSVersion, rx: bool) -> None:
        pair = self._pair(version, rx)
        data = b"\x17\x03\x03\x00\x40" + self._data[:64]
        pair.theirs.sendall(data) if rx else pair.tls.feed(data, len(data))
        with contextlib.suppress(TlsError):
            pair.tls.read()
            raise AssertionError("garbage was taken")
        pair.tls.shutdown()
        pair.close()

    def client_leaves(self, version: ssl.TLSVersion, rx: bool) -> None:
        pair = self._pair(version, rx)
        pair.theirs.close()
        with contextlib.suppress(TlsError):
            while True:
                pair.tls.write_bytes(self._data)
        pair.close()

    def select_fails(self, version: ssl.TLSVersion, rx: bool) -> None:
        with contextlib.suppress(LookupError):
            self._pair(version, rx, "broken.example")
            raise AssertionError("the chooser's exception was lost")

    def reload(self, version: ssl.TLSVersion, rx: bool) -> None:
        fresh = ServerContext(self.lib, *self.files)
        fresh.set_ticket_keys(os.urandom(fresh.ticket_keys_length))
        fresh.choose_by_name(lambda _name: fresh)
        pair = Pair(fresh, self._client, version, rx=rx)
        pair.handshake()
        pair.close()
        with contextlib.suppress(OpenSSLError):
            ServerContext(self.lib, self.files[0], str(self._path))

    def misuse(self, version: ssl.TLSVersion, rx: bool) -> None:
        pair = self._pair(version, rx)
        uses: list[Callable[[], object]] = [
            lambda: pair.tls.feed(b"x", 2),
            lambda: pair.tls.write_bytes(b""),
            lambda: pair.tls.sendfile(0, -1, 1),
            lambda: pair.tls.key_update(None),  # type: ignore[arg-type]
            lambda: self.context.set_ticket_keys(b""),
        ]
        for use in uses:
            with contextlib.suppress(TypeError, ValueError):
                use()
                raise AssertionError("misuse was taken")
        pair.close()

    def _select(self, name: str | None) -> ServerContext | None:
        if name == "broken.example":
            raise LookupError(name)
        return self._choices.get(name)

    def _pair(self, version: ssl.TLSVersion, rx: bool, name: str = "localhost") -> Pair:
        pair = Pair(self.context, self._client, version, name=name, rx=rx)
        try:
            pair.handshake()
        except BaseException:
            pair.close()
            raise
        return pair


def watch(seconds: float, directory: Path) -> tuple[int, list[str]]:
    """Run for ``seconds``, a quarter of it to warm up; return the number of lives and what grew."""
    lives = Lives(directory)
    lives.run(seconds / 4)
    before, started = Use.now(), lives.done
    lives.run(seconds * 3 / 4)
    after = Use.now()
    print(f"{lives.done - started} lives after the warm-up\n{before}\n{after}", flush=True)
    return lives.done - started, after.growth(before)


def main() -> int:
    """Run as the module's documentation says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as directory:
        _, grown = watch(seconds, Path(directory))
    for line in grown:
        print(line, file=sys.stderr)
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
