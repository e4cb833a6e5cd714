# SPDX-License-Identifier: Apache-2.0
"""JSON lines over a Unix socket: what goes over the wire, who is asking, and every way it can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import json
import logging
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ktls_host import jsonserver
from ktls_host.errors import KtlsError
from ktls_host.jsonsock import MAX_LINE, JsonSockError, Peer, RequestError, call, encode, serve_unix

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def answer(request: dict[str, Any], peer: Peer) -> dict[str, Any]:
    """Answer for the tests below: each verb is one case."""
    verb = request.get("verb")
    if verb == "whoami":
        return {"pid": peer.pid, "uid": peer.uid, "gid": peer.gid}
    if verb == "refuse":
        raise RequestError("no_such_thing", "it is not there: make it")
    if verb == "lever":
        raise KtlsError("tls_module_missing", "no tls: install it")
    if verb == "bug":
        raise RuntimeError("secret detail")
    if verb == "odd":
        return {"value": object()}
    if verb == "nan":
        return {"value": float("nan")}
    if verb == "huge":
        return {"value": "x" * MAX_LINE}
    if verb == "long_refusal":
        raise RequestError("too_much", "y" * MAX_LINE)
    return {"echo": request}


class Service:
    """A server in its own thread, so that the blocking client can be tested as users call it."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = str(path)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.server = self.run(serve_unix(self.path, options.pop("handler", answer), **options))

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    def stop(self) -> None:
        self.run(self.server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    running = Service(tmp_path / "s.sock")
    yield running
    running.stop()


def raw(path: str, data: bytes, *, half_close: bool = False) -> bytes:
    """Send bytes as they are; return all that comes back until the server closes or a line is complete."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(data)
            if half_close:
                sock.shutdown(socket.SHUT_WR)
        received = b""
        while not received.endswith(b"\n"):
            chunk = sock.recv(65536)
            if not chunk:
                break
            received += chunk
        return received


def code_of(line: bytes) -> str:
    reply = json.loads(line)
    assert reply["ok"] is False
    assert set(reply["error"]) == {"code", "message"}
    return str(reply["error"]["code"])


def test_call_returns_the_answer_with_ok(service: Service) -> None:
    assert call(service.path, {"verb": "x", "text": "žluť\n"}) == {
        "ok": True,
        "echo": {"verb": "x", "text": "žluť\n"},
    }


def test_peer_is_taken_from_the_kernel(service: Service) -> None:
    reply = call(service.path, {"verb": "whoami", "uid": 4242})
    assert (reply["pid"], reply["uid"], reply["gid"]) == (os.getpid(), os.getuid(), os.getgid())


def test_coroutine_handler(tmp_path: Path) -> None:
    async def slow(request: dict[str, Any], peer: Peer) -> dict[str, Any]:
        await asyncio.sleep(0)
        return {"verb": request["verb"]}

    running = Service(tmp_path / "a.sock", handler=slow)
    try:
        assert call(running.path, {"verb": "later"})["verb"] == "later"
    finally:
        running.stop()


@pytest.mark.parametrize(
    ("verb", "code", "message"),
    [
        ("refuse", "no_such_thing", "it is not there: make it"),
        ("lever", "tls_module_missing", "no tls: install it"),
        ("long_refusal", "too_much", "the reason is too long to send"),
    ],
)
def test_refusals_keep_their_code(service: Service, verb: str, code: str, message: str) -> None:
    with pytest.raises(JsonSockError) as caught:
        call(service.path, {"verb": verb})
    assert (caught.value.code, caught.value.message) == (code, message)


@pytest.mark.parametrize("verb", ["bug", "odd", "nan", "huge"])
def test_internal_failures_are_logged_and_not_told(
    service: Service, verb: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger=jsonserver.__name__), pytest.raises(JsonSockError) as caught:
        call(service.path, {"verb": verb})
    assert caught.value.code == "internal"
    assert "secret" not in caught.value.message
    assert [record.exc_info is not None for record in caplog.records] == [True]
    assert call(service.path, {"verb": "after"})["ok"]


@pytest.mark.parametrize(
    "line",
    [b"not json\n", b"[1]\n", b"null\n", b'"text"\n', b"\n", b"\xff\xfe\n", b"[" * 60000 + b"\n"],
    ids=["text", "list", "null", "string", "empty", "not-utf8", "deep"],
)
def test_malformed_request_is_a_bad_request(service: Service, line: bytes) -> None:
    assert code_of(raw(service.path, line)) == "bad_request"


def test_line_without_end_is_a_bad_request(service: Service) -> None:
    assert code_of(raw(service.path, b'{"verb":"x"}', half_close=True)) == "bad_request"


def test_connection_without_a_line_ends_quietly(service: Service) -> None:
    assert raw(service.path, b"", half_close=True) == b""


def test_bad_line_does_not_end_the_connection(service: Service) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(service.path)
        stream = sock.makefile("rwb")
        for line, code in ((b"nope\n", "bad_request"), (b'{"verb":"refuse"}\n', "no_such_thing")):
            stream.write(line)
            stream.flush()
            assert code_of(stream.readline()) == code
        stream.write(b'{"verb":"a"}\n{"verb":"b"}\n')
        stream.flush()
        assert [json.loads(stream.readline())["echo"]["verb"] for _ in range(2)] == ["a", "b"]


def request_of(size: int) -> bytes:
    """Return a request line of exactly ``size`` bytes."""
    empty = len(b'{"p":""}\n')
    return b'{"p":"' + b"x" * (size - empty) + b'"}\n'


def test_longest_request_is_read(tmp_path: Path) -> None:
    running = Service(tmp_path / "l.sock", handler=lambda request, peer: {"size": len(request["p"])})
    try:
        assert json.loads(raw(running.path, request_of(MAX_LINE)))["size"] == MAX_LINE - 9
        assert code_of(raw(running.path, request_of(MAX_LINE + 1))) == "protocol"
    finally:
        running.stop()


def test_endless_line_is_refused_and_closed(service: Service) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(service.path)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(b"x" * (4 * MAX_LINE))
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := sock.recv(65536):
                received += chunk
    assert code_of(received) == "protocol"
    assert received.count(b"\n") == 1


def test_client_refuses_to_send_too_much(service: Service) -> None:
    with pytest.raises(ValueError, match="over the limit"):
        call(service.path, {"p": "x" * MAX_LINE})


def test_idle_connection_is_closed(tmp_path: Path) -> None:
    running = Service(tmp_path / "i.sock", idle_timeout_s=0.2)
    try:
        started = time.monotonic()
        assert raw(running.path, b'{"verb"') == b""
        assert 0.1 < time.monotonic() - started < 3
    finally:
        running.stop()


def test_peer_that_never_reads_does_not_hold_the_server(tmp_path: Path) -> None:
    running = Service(tmp_path / "n.sock", handler=lambda request, peer: {"p": "x" * 60000}, idle_timeout_s=0.3)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(running.path)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(5000):
                    sock.sendall(b'{"verb":"flood"}\n')
            deadline = time.monotonic() + 5
            while running.server._connections and time.monotonic() < deadline:
                time.sleep(0.02)
            assert not running.server._connections
        assert call(running.path, {"verb": "after"})["ok"]
    finally:
        running.stop()


def test_too_many_connections_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jsonserver, "MAX_CONNECTIONS", 2)
    running = Service(tmp_path / "m.sock")
    held = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    try:
        for sock in held:
            sock.settimeout(5)
            sock.connect(running.path)
            sock.sendall(b"{}\n")
            assert sock.recv(100)
        with pytest.raises(JsonSockError) as caught:
            call(running.path, {})
        assert caught.value.code == "busy"
    finally:
        for sock in held:
            sock.close()
        running.stop()


def test_close_ends_open_connections_and_removes_the_file(tmp_path: Path) -> None:
    running = Service(tmp_path / "c.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(5)
        sock.connect(running.path)
        sock.sendall(b"{}\n")
        assert sock.recv(100)
        running.stop()
        assert sock.recv(100) == b""
    assert not os.path.lexists(running.path)


def test_close_leaves_a_file_that_is_not_its_own(tmp_path: Path) -> None:
    running = Service(tmp_path / "c.sock")
    os.unlink(running.path)
    (tmp_path / "c.sock").write_text("somebody else's")
    running.stop()
    assert (tmp_path / "c.sock").read_text() == "somebody else's"


def test_mode_and_group_are_set_before_it_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, bool]] = []
    path = str(tmp_path / "p.sock")
    group = grp.getgrgid(os.getgid()).gr_name
    start = jsonserver.JsonServer.start

    async def spy(self: jsonserver.JsonServer, sock: socket.socket) -> None:
        found = os.stat(path)
        with socket.socket(socket.AF_UNIX) as early:
            refused = early.connect_ex(path) != 0
        seen.append((stat.S_IMODE(found.st_mode), found.st_gid, refused))
        await start(self, sock)

    monkeypatch.setattr(jsonserver.JsonServer, "start", spy)
    before = os.umask(0)
    try:
        running = Service(tmp_path / "p.sock", mode=0o640, group=group)
        assert os.umask(0) == 0, "the umask of the process came back"
    finally:
        os.umask(before)
    running.stop()
    assert seen == [(0o640, os.getgid(), True)]


def test_a_directory_with_the_set_group_id_bit_gives_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The agent's unit allows no chown(2), and its user namespace does not know the group."""
    os.chown(tmp_path, -1, 12345)
    tmp_path.chmod(0o2755)

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    running = Service(tmp_path / "p.sock", mode=0o660, group=grp.getgrgid(os.getgid()).gr_name)
    found = os.stat(running.path)
    running.stop()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o660, 12345)


def test_file_is_closed_to_all_between_bind_and_chmod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    chmod = os.chmod

    def spy(path: str, mode: int) -> None:
        seen.append(stat.S_IMODE(os.stat(path).st_mode))
        chmod(path, mode)

    monkeypatch.setattr(os, "chmod", spy)
    Service(tmp_path / "p.sock").stop()
    assert seen == [0]


def test_unknown_group_is_named(tmp_path: Path) -> None:
    with pytest.raises(KtlsError, match="no-such-group-here") as caught:
        asyncio.run(serve_unix(str(tmp_path / "g.sock"), answer, group="no-such-group-here"))
    assert caught.value.code == "no_such_group"
    assert not (tmp_path / "g.sock").exists()


def test_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(path))
    assert path.exists()
    running = Service(path)
    try:
        assert call(running.path, {"verb": "x"})["ok"]
    finally:
        running.stop()


def test_live_socket_is_not_stolen(service: Service) -> None:
    with pytest.raises(KtlsError) as caught:
        asyncio.run(serve_unix(service.path, answer))
    assert caught.value.code == "socket_in_use"
    assert call(service.path, {"verb": "still here"})["ok"]


def test_other_file_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("precious")
    with pytest.raises(KtlsError) as caught:
        asyncio.run(serve_unix(str(tmp_path / "f"), answer))
    assert caught.value.code == "path_in_the_way"
    assert (tmp_path / "f").read_text() == "precious"


@pytest.mark.parametrize("name", ["missing/x.sock", "x" * 200])
def test_bind_failure_has_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(KtlsError) as caught:
        asyncio.run(serve_unix(str(tmp_path / name), answer))
    assert caught.value.code == "bind_failed"


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(JsonSockError, match="start the service") as caught:
        call(str(tmp_path / "none.sock"), {})
    assert caught.value.code == "unreachable"


def one_shot(path: Path, reply: bytes, wait_s: float = 0.0) -> threading.Thread:
    """Serve one connection with fixed bytes: a server that breaks the protocol on purpose."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        with listener, listener.accept()[0] as sock:
            sock.recv(65536)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for start in range(0, len(reply), 1000):
                    sock.sendall(reply[start : start + 1000])
                    time.sleep(wait_s)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b'{"ok":true}',
        b"nonsense\n",
        b"[]\n",
        b'{"fine":true}\n',
        b'{"ok":1}\n',
        b'{"ok":false}\n',
        b'{"ok":false,"error":"text"}\n',
        b'{"ok":true}\n{"ok":true}\n',
        b"x" * (MAX_LINE + 1),
        b"[" * 60000 + b"\n",
    ],
)
def test_broken_answers_are_protocol_errors(tmp_path: Path, reply: bytes) -> None:
    thread = one_shot(tmp_path / "b.sock", reply)
    with pytest.raises(JsonSockError) as caught:
        call(str(tmp_path / "b.sock"), {"verb": "x"})
    assert caught.value.code == "protocol"
    thread.join(5)


def test_timeout_bounds_the_whole_call(tmp_path: Path) -> None:
    one_shot(tmp_path / "t.sock", b"x" * 60000, wait_s=0.1)
    started = time.monotonic()
    with pytest.raises(JsonSockError) as caught:
        call(str(tmp_path / "t.sock"), {}, timeout_s=0.4)
    assert caught.value.code == "timeout"
    assert time.monotonic() - started < 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=st.binary(max_size=200).map(lambda data: data.replace(b"\n", b" ")))
def test_any_line_gets_one_json_answer(service: Service, line: bytes) -> None:
    reply = json.loads(raw(service.path, line + b"\n"))
    assert reply["ok"] in (True, False)


def test_client_does_not_import_asyncio() -> None:
    """A command that asks one question must not pay for a server; on an emulated CPU it is half a second."""
    code = "import sys, ktls_host.jsonsock; sys.exit('asyncio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=False
    )
    assert done.returncode == 0


def test_encode_is_one_line() -> None:
    assert encode({"text": "a\nb"}) == b'{"text":"a\\nb"}\n'
