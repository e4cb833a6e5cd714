# SPDX-License-Identifier: Apache-2.0
"""The HTTP server for scrapers on real sockets: what it answers, and who it does not wait for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ktls_host.errors import KtlsError
from ktls_host.httpserver import Answer, HttpServer

GET = b"GET /x?y=1 HTTP/1.1\r\nHost: h\r\n\r\n"


async def answer(path: str) -> Answer:
    if path == "/broken":
        raise ValueError("a bug")
    if path.startswith("/size/"):
        return Answer("b" * int(path[6:]))
    return Answer(path)


def run(tmp_path: Path, scenario: Callable[[HttpServer, str], Awaitable[None]], **limits: float) -> None:
    async def main() -> None:
        server = HttpServer(answer, **limits)  # type: ignore[arg-type]
        path = str(tmp_path / "s.sock")
        await server.listen_unix(path, 0o660, None)
        try:
            await scenario(server, path)
        finally:
            await server.close()
        assert not os.path.exists(path)

    asyncio.run(main())


async def send(path: str, request: bytes, timeout_s: float = 5.0) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(-1), timeout_s)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("request_", "status", "body"),
    [
        (GET, b"200", b"/x"),
        (b"GET /x HTTP/1.0\r\n\r\n", b"200", b"/x"),
        (b"HEAD /x HTTP/1.1\r\nHost: h\r\n\r\n", b"200", b""),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n", b"405", None),
        (b"GET /x HTTP/1.1\r\n\r\n", b"400", None),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400", None),
        (b"GET /" + b"x" * 20_000, b"431", None),
        (b"GET /broken HTTP/1.1\r\nHost: h\r\n\r\n", b"500", None),
    ],
)
def test_answers(tmp_path: Path, request_: bytes, status: bytes, body: bytes | None) -> None:
    async def scenario(_: HttpServer, path: str) -> None:
        head, _mark, content = (await send(path, request_)).partition(b"\r\n\r\n")
        assert head.split(b" ")[1] == status
        assert b"connection: close" in head.lower()
        if body is not None:
            assert content == body
        assert (await send(path, GET)).endswith(b"/x"), "the next one is served"

    run(tmp_path, scenario)


def test_the_socket_is_for_its_group_only(tmp_path: Path) -> None:
    async def scenario(_: HttpServer, path: str) -> None:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o660

    run(tmp_path, scenario)


def test_whoever_sends_nothing_is_cut_off(tmp_path: Path) -> None:
    async def scenario(_: HttpServer, path: str) -> None:
        assert await send(path, b"GET /", 2.0) == b""

    run(tmp_path, scenario, timeout_s=0.2)


def test_whoever_does_not_read_is_cut_off_and_nothing_is_kept_for_him(tmp_path: Path) -> None:
    async def scenario(server: HttpServer, path: str) -> None:
        reader, writer = await asyncio.open_unix_connection(path, limit=1024)
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(b"GET /size/10000000 HTTP/1.1\r\nHost: h\r\n\r\n")
        await asyncio.sleep(0.1)
        assert len(server._connections) == 1
        await asyncio.sleep(0.4)
        assert len(server._connections) == 0
        reader._transport.resume_reading()  # type: ignore[attr-defined]
        assert len(await reader.read(-1)) < 10_000_000, "the rest was thrown away"
        writer.close()

    run(tmp_path, scenario, timeout_s=0.3)


def test_nothing_is_left_open_whatever_the_kernel_had_taken_already(tmp_path: Path) -> None:
    async def scenario(server: HttpServer, path: str) -> None:
        before = len(os.listdir("/proc/self/fd"))
        clients = []
        for size in range(100_000, 340_000, 30_000):  # around what a Unix socket holds
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            sock.sendall(f"GET /size/{size} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            clients.append(sock)
        await asyncio.sleep(0.6)
        assert len(os.listdir("/proc/self/fd")) == before + len(clients), "only their own ends are open"
        for sock in clients:
            sock.close()

    run(tmp_path, scenario, timeout_s=0.3)


def test_only_so_many_at_once_and_again_later(tmp_path: Path) -> None:
    async def scenario(server: HttpServer, path: str) -> None:
        idle = [await asyncio.open_unix_connection(path) for _ in range(2)]
        await asyncio.sleep(0.05)
        with contextlib.suppress(ConnectionError):  # closed before it had read our request
            assert await send(path, GET) == b""
        for _reader, writer in idle:
            writer.close()
        await asyncio.sleep(0.05)
        assert len(server._connections) == 0
        assert (await send(path, GET)).endswith(b"/x")

    run(tmp_path, scenario, max_connections=2)


def test_loopback_and_a_port_that_is_taken(tmp_path: Path) -> None:
    async def scenario(server: HttpServer, _: str) -> None:
        port = await server.listen_tcp("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET)
        assert (await reader.read(-1)).endswith(b"/x")
        writer.close()
        with pytest.raises(KtlsError, match=f"127.0.0.1 port {port}") as caught:
            await HttpServer(answer).listen_tcp("127.0.0.1", port)
        assert caught.value.code == "bind_failed"

    run(tmp_path, scenario)


def test_a_second_server_does_not_take_the_socket(tmp_path: Path) -> None:
    async def scenario(_: HttpServer, path: str) -> None:
        second = HttpServer(answer)
        with pytest.raises(KtlsError) as caught:
            await second.listen_unix(path, 0o660, None)
        assert caught.value.code == "socket_in_use"
        await second.close()
        assert (await send(path, GET)).endswith(b"/x")

    run(tmp_path, scenario)
