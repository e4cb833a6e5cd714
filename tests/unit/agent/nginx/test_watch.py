# SPDX-License-Identifier: Apache-2.0
"""The watch of nginx: what it counts, and whom it believes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.nginx_watch import service
from ktls_agent.nginx_watch.counts import Counts, fields
from ktls_agent.nginx_watch.kernel import Sessions
from ktls_agent.nginx_watch.service import Watch, receive, serve
from ktls_host import jsonsock
from ktls_host.errors import KtlsError
from ktls_host.nginx.settings import Settings

SETTINGS = Settings(probe_port=8444, server_name="web1")


def line(mode: str = "tx", number: int = 1, status: int = 200, sent: int = 1000, end: str = "OK", **more: str) -> bytes:
    protocol, cipher = more.get("protocol", "TLSv1.3"), more.get("cipher", "TLS_AES_256_GCM_SHA384")
    text = f"k1 {mode} 17 {number} {protocol} {cipher} {status} {sent} 80 0.125 {end}"
    return f"<190>Nov 26 15:10:51 ktls: {text}".encode()


def test_lines_add_up_by_mode_protocol_and_cipher() -> None:
    counts = Counts()
    for one in (
        line(),
        line(number=2),
        line("userspace", sent=7),
        line(status=500),
        line(end=""),
        line(status=499, end=""),
    ):
        counts.take(one)
    found = counts.as_dict()
    assert found["rows"][0] == {
        "assigned": "tx", "protocol": "TLSv1.3", "cipher": "TLS_AES_256_GCM_SHA384", "connections_total": 4,
        "bytes_total": 5000, "received_total": 400, "requests_total": 5, "request_seconds_total": 0.625,
    }  # fmt: skip
    assert found["rows"][1]["bytes_total"] == 7
    assert found["errors"] == {"http_500": 1}
    assert found["errors_by_mode"] == {"tx": 1}
    assert found["client_aborts"] == {"incomplete": 1, "closed_early": 1}
    assert found["requests"] == {"2xx": 4, "5xx": 1, "4xx": 1}
    assert found["strange"] == 0


def test_what_is_no_line_of_ours_counts_nothing() -> None:
    counts = Counts()
    odd = (
        b"", b"x", b"\xff" * 80, b"<190>Nov 26 15:10:51 nginx: k1 tx", line().replace(b"k1", b"k0"),
        line(mode="hw"), line(protocol="-;"), line().replace(b" 200 ", b" two "), line() + b" more",
    )  # fmt: skip
    for one in odd:
        counts.take(one)
    assert counts.as_dict()["rows"] == []
    assert counts.strange == len(odd)
    assert fields(line()) is not None


def test_rows_are_bounded() -> None:
    counts = Counts()
    for number in range(200):
        counts.take(line(cipher=f"C{number}"))
    rows = counts.as_dict()["rows"]
    assert len(rows) == 65
    assert sum(row["requests_total"] for row in rows) == 200


def test_ages_of_kernel_sessions() -> None:
    sessions = Sessions()
    sessions.look(0.0, {"TlsTxSw": 5, "TlsCurrTxSw": 0})
    none = {"last_ktls_tx_established_age_s": None, "ktls_tx_zero_age_s": None}
    assert sessions.ages(1.0) == {"ktls_tx_open": 0, **none}
    assert not sessions.lively(1.0)
    sessions.look(2.0, {"TlsTxSw": 6, "TlsCurrTxSw": 1})
    assert sessions.lively(500.0)
    sessions.look(3.0, {"TlsTxSw": 6, "TlsCurrTxSw": 1})
    assert sessions.ages(3.0) == {"ktls_tx_open": 1, "last_ktls_tx_established_age_s": 1.0, "ktls_tx_zero_age_s": None}
    sessions.look(4.0, {"TlsTxSw": 6, "TlsCurrTxSw": 0})
    sessions.look(5.0, {"TlsTxSw": 6, "TlsCurrTxSw": 0})
    assert sessions.ages(5.0) == {"ktls_tx_open": 0, "last_ktls_tx_established_age_s": 3.0, "ktls_tx_zero_age_s": 1.0}
    assert (sessions.lively(61.0), sessions.lively(63.0)) == (True, False)
    sessions.look(6.0, {"TlsTxSw": 9, "TlsCurrTxSw": 0})  # they came and went between two looks
    assert sessions.ages(6.5) == {"ktls_tx_open": 0, "last_ktls_tx_established_age_s": 0.5, "ktls_tx_zero_age_s": 0.5}
    sessions.look(7.0, None)  # the module was unloaded
    assert sessions.ages(7.5)["last_ktls_tx_established_age_s"] == 1.5


def test_only_nginx_is_believed() -> None:
    ours, now = [os.getpid()], [0.0]
    watch = Watch(SETTINGS, lambda: tuple(ours), lambda program: "", lambda: None, lambda: now[0])
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with reader, writer:
        reader.setblocking(False)
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        writer.send(line())
        receive(reader, watch.take)
        assert watch.counts.as_dict()["requests"] == {"2xx": 1}
        ours.clear()
        watch = Watch(SETTINGS, lambda: tuple(ours), lambda program: "", lambda: None, lambda: now[0])
        writer.send(line())
        receive(reader, watch.take)
        assert watch.foreign == 1
        assert watch.counts.as_dict()["rows"] == []
        ours.append(os.getpid())
        now[0] = 2.0
        writer.send(line())
        receive(reader, watch.take)
    assert watch.counts.as_dict()["requests"] == {"2xx": 1}


def test_status_says_what_nginx_is_and_asks_the_program_once() -> None:
    asked: list[str] = []

    def say(program: str) -> str:
        asked.append(program)
        return "nginx version: nginx/1.26.3\nbuilt with OpenSSL 3.5.5 27 Jan 2026\n--with-http_ssl_module"

    watch = Watch(SETTINGS, lambda: (), say, lambda: {"TlsTxSw": 1})
    watch.step()
    found: dict[str, Any] = watch.status()
    watch.status()
    assert asked == ["/usr/sbin/nginx"]
    assert (found["nginx"], found["openssl"], found["library"]) == ("1.26.3", "3.5.5", "OpenSSL 3.5.5 27 Jan 2026")
    assert found["master"] is None


def test_the_service_counts_and_answers_until_it_is_told_to_end(tmp_path: Path) -> None:
    path = str(tmp_path / "watch.sock")
    watch = Watch(SETTINGS, lambda: (os.getpid(),), lambda program: "", lambda: {"TlsTxSw": 0})
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    async def main() -> list[dict[str, Any]]:
        serving = asyncio.ensure_future(serve(watch, reader, path, None))
        while not os.path.exists(path):
            await asyncio.sleep(0.01)
        loop = asyncio.get_running_loop()
        writer.send(line())
        answers = [await loop.run_in_executor(None, jsonsock.call, path, {"verb": "status"})]
        try:
            await loop.run_in_executor(None, jsonsock.call, path, {"verb": "mode", "mode": "tx"})
        except KtlsError as error:
            answers.append({"code": error.code})
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(serving, 5)
        return answers

    with reader, writer:
        status, refused = asyncio.run(main())
    assert status["requests"] == {"2xx": 1}
    assert (status["unit"], status["foreign"]) == ("nginx.service", 0)
    assert refused == {"code": "bad_verb"}
    assert not os.path.exists(path)


def test_not_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LISTEN_PID", raising=False)
    with pytest.raises(KtlsError, match="not by hand"):
        service.main("/nowhere")
