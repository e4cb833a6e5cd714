# SPDX-License-Identifier: Apache-2.0
"""Bytes that are no TLS, or TLS that went wrong: each ends its own connection, and nothing else happens."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.authority import Authority, KeyPair

from .clients import request
from .conftest import Site
from .content import sha256
from .harness import Native, eventually, no_errors, running
from .raw import ClosedError, Raw

#: The server has 10 seconds for a handshake by default; a client that says nothing more is ended after them.
HANDSHAKE_S = 3.0
READ_S = 25.0
SEED = 4


def client_hello(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    """A true ClientHello record."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    outgoing = ssl.MemoryBIO()
    tls = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


def record(kind: int, payload: bytes, version: int = 0x0303) -> bytes:
    """A TLS record in the clear."""
    return struct.pack("!BHH", kind, version, len(payload)) + payload


def sslv2_hello() -> bytes:
    """RFC 6101 appendix E: two suites, no session, a challenge of 16 bytes."""
    body = b"\x01\x03\x01" + struct.pack("!HHH", 6, 0, 16) + b"\x01\x00\x80\x02\x00\x80" + bytes(16)
    return struct.pack("!H", 0x8000 | len(body)) + body


def cases() -> dict[str, bytes]:
    """What is sent right after connecting. Then the client sends no more."""
    hello = client_hello()
    rng = random.Random(SEED)
    found = {
        "plain http": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "plain http 2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
        "smtp": b"EHLO localhost\r\nSTARTTLS\r\n",
        "proxy protocol": b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n" + hello,
        "socks": b"\x05\x01\x00",
        "nothing": b"",
        "one byte": b"\x16",
        "half a header": hello[:3],
        "header only": hello[:5],
        "half a hello": hello[: len(hello) // 2],
        "all but one byte": hello[:-1],
        "hello twice": hello * 2,
        "sslv2 hello": sslv2_hello(),
        "sslv3 hello": b"\x16\x03\x00" + hello[3:9] + b"\x03\x00" + hello[11:],
        "record too long": b"\x16\x03\x01\xff\xff" + bytes(65535),
        "record of 16 KiB + 2049": record(0x16, bytes(16384 + 2049)),
        "empty records": record(0x16, b"") * 5000,
        "alert at once": record(0x15, b"\x02\x28"),
        "warning alerts": record(0x15, b"\x01\x00") * 500,
        "user_canceled for ever": record(0x15, b"\x01\x5a") * 5000,
        "close_notify at once": record(0x15, b"\x01\x00"),
        "short alert": record(0x15, b"\x02"),
        "change cipher spec": record(0x14, b"\x01"),
        "change cipher specs": record(0x14, b"\x01") * 5000,
        "data before the handshake": record(0x17, b"GET / HTTP/1.1\r\n\r\n"),
        "heartbleed": record(0x18, b"\x01\x40\x00"),
        "hello then heartbeat": hello + record(0x18, b"\x01\x40\x00"),
        "unknown record type": record(0x63, b"hello"),
        "finished first": record(0x16, b"\x14\x00\x00\x0c" + bytes(12)),
        "server hello": record(0x16, b"\x02" + hello[6:]),
        "hello request": record(0x16, b"\x00\x00\x00\x00"),
        "key update in the clear": hello + record(0x16, b"\x18\x00\x00\x01\x01"),
        "handshake message of 16 MiB": record(0x16, b"\x01\xff\xff\xff" + bytes(16000)) * 20,
        "hello of 64 KiB": record(0x16, b"\x01\x00\xff\xff" + bytes(16000)) + record(0x16, bytes(16000)) * 4,
        "a byte a record": b"".join(record(0x16, hello[5 + i : 6 + i], 0x0301) for i in range(len(hello) - 5)),
        "version 0": b"\x16\x00\x00" + hello[3:],
    }
    for number in range(12):
        found[f"random bytes {number}"] = rng.randbytes(rng.choice((1, 5, 11, 100, 2000, 20000)))
    for number in range(60):
        source = client_hello(rng.choice((ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)))
        found[f"mutated hello {number}"] = mutate(source, rng)
    return found


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Change a hello so that its lengths or contents are wrong in one to four places."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(5, len(changed))
        kind = rng.randrange(4)
        if kind == 0:
            changed[at] = rng.randrange(256)
        elif kind == 1:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 2:
            del changed[at : at + rng.randint(1, 20)]
        else:
            changed[at:at] = rng.randbytes(rng.randint(1, 20))
    if rng.random() < 0.5 and len(changed) > 9:
        # The outer lengths right again, so that the damage lies deeper.
        changed[3:5] = struct.pack("!H", len(changed) - 5)
        changed[6:9] = struct.pack("!I", len(changed) - 9)[1:]
    return bytes(changed)


CASES = cases()


@pytest.fixture(scope="module")
def strict_process(
    tmp_path_factory: pytest.TempPathFactory, site: Site, pair: KeyPair, authority: Authority
) -> Iterator[Native]:
    directory = tmp_path_factory.mktemp("strict")
    with running(directory, site.root, pair, authority.path, handshake_timeout_s=HANDSHAKE_S) as native:
        yield native


@pytest.fixture
def strict(strict_process: Native) -> Iterator[Native]:
    """It gives a handshake little time; what clients break there is no error of the server."""
    with no_errors(strict_process):
        yield strict_process


def what_happens(port: int, data: bytes) -> str:
    """Send, go on reading, and return ``ended`` or ``stays``; ``leaks`` when HTTP came back."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=READ_S) as sock:
        try:
            sock.sendall(data)
            while chunk := sock.recv(65536):
                received += chunk
        except TimeoutError:
            return "stays"
        except ConnectionError:
            pass
    return "leaks" if b"HTTP/1" in received else "ended"


@pytest.fixture(scope="module")
def results(strict_process: Native) -> dict[str, str]:
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda data: what_happens(strict_process.port, data), CASES.values()))
    return dict(zip(CASES, found, strict=True))


@pytest.mark.parametrize("name", CASES)
def test_it_is_ended(results: dict[str, str], name: str) -> None:
    assert results[name] == "ended"


def test_it_still_serves(results: dict[str, str], strict: Native, site: Site) -> None:
    client = Raw(strict.endpoint)
    assert sha256(client.ask(request("/large.bin")).body) == site.sha256["large.bin"]
    client.close()
    # What has no handshake is never a connection of one of the paths.
    assert strict.status()["client_aborts"]["handshake"] >= len(results) // 2
    eventually(lambda: sum(strict.status()["connections"].values()) == 0)


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _flip_length(data: bytes) -> bytes:
    return data[:4] + bytes([data[4] ^ 1]) + data[5:]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    "spoil",
    [
        _flip,
        _flip_length,
        lambda data: data * 2,
        lambda data: data[: len(data) // 2] + b"GET / HTTP/1.1\r\n\r\n",
        lambda data: b"\x63" + data[1:],
        lambda data: data[:1] + b"\x02\x00" + data[3:],
        lambda data: record(0x17, b"") + data,
        lambda data: record(0x17, bytes(16640)) + data,
        lambda data: record(0x15, b"\x02\x14") + data,
        lambda data: record(0x14, b"\x01") + data,
        lambda data: client_hello() + data,
    ],
    ids=[
        "last bit",
        "length",
        "replayed record",
        "cut record",
        "type",
        "version",
        "empty record",
        "zero record",
        "alert in the clear",
        "change cipher spec",
        "second hello",
    ],
)
def test_spoilt_records(strict: Native, site: Site, version: ssl.TLSVersion, spoil: Callable[[bytes], bytes]) -> None:
    """A record that does not decrypt is never data: at most what came before it is answered."""
    client = Raw(strict.endpoint, version=version)
    assert client.ask(request("/small.bin")).status == 200
    client.sock.sendall(spoil(client.records(request("/plain.txt"))))
    # Or the server would wait for the rest of a record that is cut.
    client.sock.shutdown(socket.SHUT_WR)
    answers = 0
    with pytest.raises((ClosedError, ConnectionError)):
        while True:
            assert client.response().body == site.files["plain.txt"]
            answers += 1
    assert answers <= 1
    client.sock.close()


def test_a_handshake_a_byte_at_a_time(strict: Native, site: Site) -> None:
    """Slow networks cut anywhere; this one is right, and is served."""

    class Trickle(Raw):
        def _flush(self) -> None:
            for byte in self._out.read():
                self.sock.sendall(bytes([byte]))

    client = Trickle(strict.endpoint)
    assert sha256(client.ask(request("/small.bin")).body) == site.sha256["small.bin"]
    client.close()


def test_clients_that_vanish(strict: Native, site: Site) -> None:
    """A reset at each point: in the handshake, idle, in the middle of a request and of a response."""
    before = strict.status()

    def vanish(sock: socket.socket) -> None:
        # SO_LINGER 0: close sends RST.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def attack(number: int) -> None:
        if number % 4 == 0:
            sock = socket.create_connection(("127.0.0.1", strict.port))
            sock.sendall(client_hello()[:100])
            vanish(sock)
            return
        client = Raw(strict.endpoint, receive_buffer=8192)
        if number % 4 == 2:
            client.send(b"GET /lar")
        elif number % 4 == 3:
            client.send(request("/large.bin") * 3)
            client.read()
        vanish(client.sock)

    threads = [threading.Thread(target=attack, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    client = Raw(strict.endpoint)
    assert sha256(client.ask(request("/large.bin")).body) == site.sha256["large.bin"]
    client.close()
    eventually(lambda: sum(strict.status()["connections"].values()) == 0)
    assert sum(strict.status()["client_aborts"].values()) > sum(before["client_aborts"].values())


def test_descriptors_do_not_grow(strict: Native) -> None:
    """After all of that, as many open files as after one connection."""

    def count() -> int:
        pids = [strict.pid, *children(strict.pid)]
        return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)

    eventually(lambda: sum(strict.status()["connections"].values()) == 0)
    before = count()
    for data in list(CASES.values())[:20]:
        with socket.create_connection(("127.0.0.1", strict.port)) as sock, contextlib.suppress(OSError):
            sock.sendall(data)
    eventually(lambda: count() <= before, 15, "as few descriptors as before")


def children(pid: int) -> list[int]:
    """The processes that ``pid`` started, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *children(int(child))]
    return found
