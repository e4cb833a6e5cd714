# SPDX-License-Identifier: Apache-2.0
"""The helper that sees what the agent may not, and the client that knows when to ask it."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ktls_agent import diag
from ktls_host import jsonsock
from ktls_host.errors import KtlsError
from ktls_host.sock_diag import TcpConnection, UlpInfo


def connection(remote_port: int, tx: str | None = None, rx: str = "none") -> TcpConnection:
    ulp = None if tx is None else UlpInfo("tls", "TLSv1.3", "AES-256-GCM", tx, rx)
    return TcpConnection("ipv4", "ESTABLISHED", "127.0.0.1", 8443, "127.0.0.1", remote_port, 0, 1, remote_port, ulp)


DUMP = [connection(1, "sw"), connection(2, "hw", "sw"), connection(3, "none"), connection(4)]


def hidden(port: int, remote_port: int) -> list[TcpConnection]:
    raise KtlsError("need_net_admin", "the kernel hides it")


def test_counts_and_single_connections() -> None:
    assert diag.summary(DUMP) == {"ktls_tx": 2, "ktls_rx": 1, "userspace": 2}
    client = diag.DiagClient("/nowhere", 8443, lambda port, remote_port: DUMP)
    assert client.summary()["ktls_tx"] == 2
    assert [client.ktls_tx(port) for port in (1, 2, 3, 4, 5)] == [True, True, False, False, None]


@pytest.mark.parametrize(
    "request_",
    [
        None, [], {}, {"verb": "dump"}, {"verb": "summary", "port": 22}, {"verb": "one"},
        {"verb": "one", "remote_port": 0}, {"verb": "one", "remote_port": True}, {"verb": "one", "remote_port": "1"},
        {"verb": "one", "remote_port": 1, "x": 1},
    ],
)  # fmt: skip
def test_helper_answers_nothing_else(request_: Any) -> None:
    with pytest.raises(KtlsError) as caught:
        diag.answer(request_, 8443, lambda port, remote_port: DUMP)
    assert caught.value.code == "bad_request"


def test_client_asks_the_helper_where_the_kernel_hides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "diag.sock")
    asked: list[int] = []

    def dump(port: int, remote_port: int) -> list[TcpConnection]:
        asked.append(port)
        return DUMP

    monkeypatch.setattr(diag.answer, "__defaults__", (dump,))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=diag.serve, args=(8443, listener, 0.3))
        thread.start()
        client = diag.DiagClient(path, 9999, hidden)
        assert client.summary() == {"ktls_tx": 2, "ktls_rx": 1, "userspace": 2}
        assert client.ktls_tx(3) is False
        assert asked == [8443, 8443], "the port is the helper's, never the client's"
        for line in (b"x\n", b"[" * 4000 + b"\n", b"\n"):
            with socket.socket(socket.AF_UNIX) as bad:
                bad.connect(path)
                bad.sendall(line)
                assert b"bad_request" in bad.recv(4096)
        with pytest.raises(jsonsock.JsonSockError) as caught:
            jsonsock.call(path, {"verb": "reboot"})
        assert caught.value.code == "bad_request"
        started = time.monotonic()
        thread.join(5)
        assert time.monotonic() - started < 2, "the helper ends when idle"
        assert not thread.is_alive()


class Looking(diag.Watch):
    """Counts how often it was its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.asked = 0

    def answer(self) -> dict[str, Any]:
        self.asked += 1
        if self.asked == 2:
            raise KtlsError("need_net_admin", "the kernel hides it")
        return {"evidence": {"at_s": 1}}

    def step(self, at_most_s: float) -> float:
        self.steps += 1
        return min(at_most_s, 0.05)


def test_helper_looks_while_it_waits_and_answers_with_what_it_saw(tmp_path: Path) -> None:
    path, watch = str(tmp_path / "diag.sock"), Looking()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=diag.serve, args=(8443, listener, 0.5, watch))
        thread.start()
        assert jsonsock.call(path, {"verb": "evidence"})["evidence"] == {"at_s": 1}
        with pytest.raises(jsonsock.JsonSockError, match="hides"):
            jsonsock.call(path, {"verb": "evidence"})
        with pytest.raises(jsonsock.JsonSockError, match="answers"):
            jsonsock.call(path, {"verb": "evidence", "ports": [22]})
        assert watch.asked == 2
        time.sleep(0.2)
        assert watch.steps > 4, "it looks without being asked"
        thread.join(5)
        assert not thread.is_alive(), "and ends when nobody asks"


def test_without_helper_the_view_is_unknown_not_zero() -> None:
    with pytest.raises(KtlsError) as caught:
        diag.DiagClient("/nowhere/diag.sock", 8443, hidden).summary()
    assert caught.value.code == "unreachable"


def test_real_kernel_answers_for_a_loopback_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        with accepted:
            view = diag.DiagClient("/nowhere", server.getsockname()[1])
            assert view.summary() == {"ktls_tx": 0, "ktls_rx": 0, "userspace": 1}
            assert view.ktls_tx(client.getsockname()[1]) is False


def test_helper_started_by_hand_says_how_it_is_started() -> None:
    with pytest.raises(KtlsError, match=r"ktls-diag\.socket"):
        diag.main(8443)
