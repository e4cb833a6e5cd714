# SPDX-License-Identifier: Apache-2.0
"""The service on real Unix sockets, with a sidecar that obeys."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ktls_agent import daemon
from ktls_agent.config import parse
from ktls_agent.daemon import Daemon
from ktls_agent.diag import DiagClient
from ktls_agent.observe import Observer
from ktls_host import jsonsock
from ktls_host.errors import KtlsError
from ktls_host.jsonsock import JsonSockError, Peer, RequestError

from .conftest import Host, order


def config(tmp_path: Path) -> Any:
    probe = {"host": "127.0.0.1", "port": 1, "server_name": "x", "ca": "/nowhere", "path": "/p"}
    paths = {"socket": tmp_path / "a.sock", "state_dir": tmp_path / "lib", "run_dir": tmp_path / "run"}
    raw = {name: str(path) for name, path in paths.items()}
    return parse({**raw, "sidecar_socket": str(tmp_path / "s.sock"), "group": None, "probe": probe}, "test")


@contextlib.asynccontextmanager
async def running(host: Host, tmp_path: Path) -> AsyncIterator[tuple[Daemon, str]]:
    settings = config(tmp_path)

    async def sidecar(request: dict[str, Any]) -> dict[str, Any]:
        return await asyncio.to_thread(jsonsock.call, settings.sidecar_socket, request, 2.0)

    host.call_sidecar = sidecar  # type: ignore[method-assign]
    agent = host.agent()
    agent.clock = time.monotonic
    service = Daemon(settings, agent, Observer(agent, DiagClient("/nowhere", 1, lambda port, remote_port: [])))
    serving = await jsonsock.serve_unix(settings.sidecar_socket, lambda request, peer: host.sidecar.answer(request))
    ready = asyncio.Event()
    task = asyncio.ensure_future(service.run(ready.set))
    await asyncio.wait_for(ready.wait(), 5)
    try:
        yield service, settings.socket
    finally:
        service.stop()
        await asyncio.wait_for(task, 10)
        await serving.close()


def serve(host: Host, tmp_path: Path, scenario: Callable[[Daemon, str], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running(host, tmp_path) as (service, path):
            await scenario(service, path)

    asyncio.run(main())


async def ask(path: str, **request: Any) -> dict[str, Any]:
    return await asyncio.to_thread(jsonsock.call, path, request, 10.0)


def test_flag_switches_the_sidecar_within_a_second(host: Host, tmp_path: Path) -> None:
    async def scenario(_: Daemon, path: str) -> None:
        status = await ask(path, verb="order", order=order())
        assert (status["order"], status["phase"], status["tested"]) == ("pending", "tx", True)
        status = await ask(path, verb="confirm", id="o1", epoch=1)
        assert (status["order"], status["lease_left_s"]) == ("committed", None)
        host.sidecar.calls.clear()
        started = time.monotonic()
        (host.run_dir / "off").touch()
        while host.sidecar.calls != ["userspace"]:
            assert time.monotonic() - started < 1.0, "the flag was not obeyed within a second"
            await asyncio.sleep(0.005)
        status = await ask(path, verb="status")
        assert (status["order"], status["phase"], status["off"]["flag"]) == ("reverted", "userspace", True)
        assert (host.state_dir / "off").exists()
        with pytest.raises(JsonSockError) as caught:
            await ask(path, verb="order", order=order("o2", 2))
        assert caught.value.code == "off_latched"
        assert (await ask(path, verb="clear"))["off"]["flag"] is False
        assert (await ask(path, verb="order", order=order("o2", 2)))["phase"] == "tx"

    serve(host, tmp_path, scenario)


def test_off_verb_returns_the_status_after_the_switch(host: Host, tmp_path: Path) -> None:
    async def scenario(_: Daemon, path: str) -> None:
        await ask(path, verb="order", order=order())
        status = await ask(path, verb="off", reason="drill\n\x1b[31m", unknown="tolerated: OFF is never refused")
        assert status["phase"] == "userspace"
        assert status["off"]["reason"] == "drill [31m"
        assert status["revert_reason"] == "off: drill [31m"
        assert json.loads((host.run_dir / "off").read_text())["reason"] == "drill [31m"
        assert (await ask(path, verb="off", reason=7))["off"]["flag"] is True

    serve(host, tmp_path, scenario)


def test_status_object_has_every_key_of_the_schema(host: Host, tmp_path: Path) -> None:
    async def scenario(_: Daemon, path: str) -> None:
        status = await ask(path, verb="probe")
        expected: dict[str, Any] = {
            "ok": bool, "schema": int, "version": str, "host": dict, "phase": str, "order": str, "epoch": int,
            "order_id": (str, type(None)), "ordered_phase": (str, type(None)), "lease_left_s": (float, type(None)),
            "revert": list, "stuck": bool, "lapsed": bool, "revert_reason": (str, type(None)), "off": dict,
            "tls_stat": dict, "tls_stat_available": bool,
            "connections": dict, "bytes": dict, "sockets": dict, "sidecar": dict, "sidecar_error": type(None),
            "probe": dict,
        }  # fmt: skip
        for key, kind in expected.items():
            assert isinstance(status[key], kind), key
        assert set(status["host"]) == {"name", "kernel", "openssl", "python"}
        assert set(status["off"]) == {"flag", "age_s", "reason"}
        assert status["sockets"] == {"ktls_tx": 0, "ktls_rx": 0, "userspace": 0}
        assert set(status["probe"]) == {
            "ok", "at_age_s", "sha256_ok", "ktls_tx", "ktls_rx", "protocol", "cipher", "duration_s", "error",
            "failure", "timings",
        }  # fmt: skip
        host.sidecar.gone = True
        status = await ask(path, verb="status")
        assert status["sidecar"] is None
        assert status["phase"] == "userspace", "what cannot be read back is never called kTLS"
        assert "\n" not in status["sidecar_error"]

    serve(host, tmp_path, scenario)


def test_whoever_may_connect_may_switch_off(host: Host, tmp_path: Path) -> None:
    """The fetcher of signed flags does: a user of its own, who may do nothing else."""

    async def scenario(service: Daemon, _: str) -> None:
        answer = await service.handle({"verb": "off", "reason": "signed flag 7"}, Peer(pid=1, uid=12345, gid=12345))
        assert answer["off"] == {"flag": True, "age_s": answer["off"]["age_s"], "reason": "signed flag 7"}
        assert host.flags.present() == (True, True)

    serve(host, tmp_path, scenario)


@pytest.mark.parametrize("verb", ["order", "confirm", "extend", "cancel", "revert", "clear"])
def test_other_users_may_only_look(host: Host, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(service: Daemon, _: str) -> None:
        stranger = Peer(pid=1, uid=12345, gid=12345)
        await service.handle({"verb": "status"}, stranger)
        with pytest.raises(RequestError) as caught:
            await service.handle({"verb": verb, "order": order(), "reason": "x"}, stranger)
        assert caught.value.code == "not_permitted"
        assert service.agent.state.status == "none"
        assert not service.agent.state.latched
        # The agent's own user may do everything but take the flag away.
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        allowed = service.handle({"verb": verb}, stranger)
        if verb == "clear":
            with pytest.raises(RequestError) as caught:
                await allowed
            assert caught.value.code == "not_permitted"
        elif verb in ("off", "revert"):
            await allowed
        else:
            with pytest.raises(KtlsError) as refused:
                await allowed
            assert refused.value.code == "bad_order"

    serve(host, tmp_path, scenario)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"{}\n", "bad_verb"),
        (b'{"verb": ["status"]}\n', "bad_verb"),
        (b'{"verb": "reboot"}\n', "bad_verb"),
        (b'{"verb": "status", "x": 1}\n', "bad_request"),
        (b'{"verb": "order"}\n', "bad_order"),
        (b'{"verb": "order", "order": {"id": "x"}}\n', "bad_order"),
        (b'{"verb": "confirm", "id": null, "epoch": 1}\n', "bad_order"),
        (b'{"verb": "confirm", "id": "x", "epoch": 1}\n', "wrong_order"),
        (b'{"verb": "extend", "id": "x", "epoch": 1, "lease_s": 5}\n', "wrong_order"),
        (b'{"verb": "extend", "id": "x", "epoch": 1}\n', "bad_order"),
        (b'{"verb": "extend", "id": "x", "epoch": 1, "lease_s": 1e999}\n', "bad_order"),
        (b'{"verb": "extend", "id": "x", "epoch": 1, "lease_s": 5, "phase": "tx"}\n', "bad_request"),
        (b'{"verb": "cancel", "id": "x", "epoch": 1}\n', "wrong_order"),
        (b'{"verb": "cancel"}\n', "bad_order"),
        (b"[1]\n", "bad_request"),
        (b"\xff\n", "bad_request"),
        (b"x" * 70_000 + b"\n", "protocol"),
    ],
)
def test_bad_requests_are_refused_in_one_line(host: Host, tmp_path: Path, line: bytes, expected: str) -> None:
    def send(path: str) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(path)
            with contextlib.suppress(BrokenPipeError):
                sock.sendall(line)
            return dict(json.loads(sock.makefile().readline()))

    async def scenario(_: Daemon, path: str) -> None:
        answer = await asyncio.to_thread(send, path)
        assert answer["error"]["code"] == expected
        assert "\n" not in answer["error"]["message"]
        assert (await ask(path, verb="status"))["order"] == "none", "the agent lives on"

    serve(host, tmp_path, scenario)


def test_second_agent_does_not_touch_the_first(host: Host, tmp_path: Path) -> None:
    async def scenario(_: Daemon, path: str) -> None:
        await ask(path, verb="order", order=order())
        second = Daemon(config(tmp_path), host.agent(), None)  # type: ignore[arg-type]
        with pytest.raises(KtlsError) as caught:
            await second.run()
        second.agent.close()
        assert caught.value.code == "socket_in_use"
        status = await ask(path, verb="status")
        assert (status["order"], status["phase"]) == ("pending", "tx")

    serve(host, tmp_path, scenario)


def test_stopping_undoes_the_pending_order_and_feeds_the_watchdog(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        unit = (Path(__file__).parents[3] / "agent/units/ktls-agent.service").read_text()
        assert f"WatchdogSec={6 * daemon.ALIVE_S:g}\n" in unit, "a sign of life may be late, or lost"
        monkeypatch.setattr(daemon, "ALIVE_S", 0.2)

        async def scenario(_: Daemon, path: str) -> None:
            await ask(path, verb="order", order=order())
            await asyncio.sleep(0.6)

        serve(host, tmp_path, scenario)
        heard = []
        with contextlib.suppress(BlockingIOError):
            while True:
                heard.append(systemd.recv(100))
    assert heard.count(b"WATCHDOG=1") >= 2
    assert heard[-1] == b"STOPPING=1"
    assert host.sidecar.mode == "userspace"
    assert not os.path.exists(tmp_path / "a.sock")


def test_a_confirmation_over_the_connection_of_its_order_is_refused(host: Host, tmp_path: Path) -> None:
    def converse(path: str) -> list[dict[str, Any]]:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(10)
            sock.connect(path)
            lines = sock.makefile("rw")
            answers = []
            for request in ({"verb": "order", "order": order()}, {"verb": "confirm", "id": "o1", "epoch": 1}):
                lines.write(json.dumps(request) + "\n")
                lines.flush()
                answers.append(json.loads(lines.readline()))
            return answers

    async def scenario(_: Daemon, path: str) -> None:
        ordered, confirmed = await asyncio.to_thread(converse, path)
        assert ordered["order"] == "pending"
        assert confirmed["error"]["code"] == "same_connection"
        assert (await ask(path, verb="confirm", id="o1", epoch=1))["order"] == "committed"

    serve(host, tmp_path, scenario)


def test_extend_and_cancel_over_the_socket(host: Host, tmp_path: Path) -> None:
    async def scenario(_: Daemon, path: str) -> None:
        await ask(path, verb="order", order=order(lease_s=10))
        status = await ask(path, verb="extend", id="o1", epoch=1, lease_s=500)
        assert 490 < status["lease_left_s"] <= 500
        status = await ask(path, verb="cancel", id="o1", epoch=1)
        assert (status["order"], status["revert_reason"], status["phase"]) == ("reverted", "cancelled", "userspace")
        assert [one["step"] for one in status["revert"]] == ["nic", "rx", "tx", "policy", "module"]
        assert (await ask(path, verb="cancel", id="o1", epoch=1))["order"] == "reverted"

    serve(host, tmp_path, scenario)


def test_a_tick_that_raises_ends_the_service(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd starts it anew; an agent whose ticks have ended would keep no lease."""

    async def scenario(served: Daemon, path: str) -> None:
        def broken() -> None:
            raise RuntimeError("a mistake of ours")

        monkeypatch.setattr(served.agent, "tick", broken)
        await asyncio.sleep(0.4)

    with pytest.raises(RuntimeError, match="a mistake of ours"):
        serve(host, tmp_path, scenario)
