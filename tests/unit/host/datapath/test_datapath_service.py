# SPDX-License-Identifier: Apache-2.0
"""Datapath ``service`` as the agent has it: when the helper is asked, what is refused, and what the status says."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from ktls_host.datapath import registry, service
from ktls_host.datapath.model import Flow, Seen, Tools, Wish
from ktls_host.datapath.service import Service
from ktls_host.errors import KtlsError

UNIT = "web.service"
DROP_IN = f"/etc/systemd/system/{UNIT}.d/zz-ktls-fleet-openssl.conf"
RAW = {"kind": "service", "unit": UNIT, "tx_rx_consent": True, "restart_ok": True}
FLOWS = (
    Flow(443, "web", "TLSv1.3", "aes-gcm-256", "sw", "sw", 2, 100, 10),
    Flow(443, "web", "", "", "none", "none", 1, 7, 3),
)


class Helper:
    """Root's helper, with its unit: a control group and a drop-in under ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        self.pid = 100
        self.facts: dict[str, Any] = {"backend": "openssl", "library": "OpenSSL 3.5.7", "release": [3, 5]}
        self.stale = 0
        self.asks = False
        self.active = True
        self.restarts = True
        self.error: KtlsError | None = None
        self.place = root / f"sys/fs/cgroup/system.slice/{UNIT}"
        self.place.mkdir(parents=True)
        self.started()

    @property
    def drop_in(self) -> Path:
        return self.root / DROP_IN[1:]

    def started(self) -> None:
        self.pid += 1
        (self.place / "cgroup.procs").write_text(f"{self.pid}\n{self.pid + 1000}\n")

    def __call__(self, path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        assert path == service.SOCKET
        self.asked.append(request["verb"])
        if self.error is not None:
            raise self.error
        changed = self.drop_in.exists() != (request["verb"] == "on") if request["verb"] != "look" else False
        if request["verb"] == "on":
            self.drop_in.parent.mkdir(parents=True, exist_ok=True)
            self.drop_in.touch()
        elif request["verb"] == "off":
            self.drop_in.unlink(missing_ok=True)
        if changed and self.restarts:
            self.started()
            self.asks = request["verb"] == "on"
        elif changed:
            self.stale = 2
        return {
            "ok": True,
            "unit": UNIT,
            "active": self.active,
            "main_pid": self.pid,
            "program": "/usr/bin/web",
            "ktls_built": True,
            "drop_in": DROP_IN,
            "configured": self.drop_in.exists(),
            "asks": self.asks,
            "stale": self.stale,
            "problem": f"{UNIT} runs on" if self.stale else None,
            "restarted": [UNIT] if changed and self.restarts else [],
            **self.facts,
        }


@pytest.fixture
def helper(tmp_path: Path) -> Helper:
    return Helper(tmp_path)


def made(helper: Helper, seen: Seen | None = None, **settings: Any) -> Service:
    choice = registry.parse({**RAW, **settings}, "agent.json")
    found = registry.make(choice, Tools(helper, lambda: seen, str(helper.root)))
    assert isinstance(found, Service)
    return found


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ({"kind": "service"}, "datapath.unit is missing"),
        ({"kind": "service", "unit": "web"}, "not the full name"),
        ({**RAW, "backend": "nss"}, "datapath.backend is not one of auto, openssl, gnutls, lighttpd"),
        ({**RAW, "restart_ok": "yes"}, "datapath.restart_ok is not true or false"),
        ({**RAW, "port": True}, "datapath.port"),
        ({**RAW, "port": 0}, "datapath.port"),
        ({**RAW, "colour": 1}, "unknown key colour"),
    ],
)
def test_settings_that_cannot_be_used(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(KtlsError, match=said) as caught:
        registry.parse(raw, "agent.json")
    assert caught.value.code == "bad_config"


def test_on_and_off(helper: Helper) -> None:
    web = made(helper)
    assert web.observe()["mode"] == "userspace"
    status = web.switch(Wish("tx"))
    assert (status["mode"], status["effective_mode"], status["pid"]) == ("tx", "tx+rx", helper.pid)
    assert web.observe()["effective_mode"] == "tx+rx"
    status = web.switch(Wish("rx"))
    assert (status["mode"], status["effective_mode"]) == ("rx", "rx")
    status = web.switch(Wish("userspace"))
    assert (status["mode"], status["effective_mode"], status["health"]) == ("userspace", "userspace", "ok")
    assert helper.asked == ["look", "on", "on", "off"]
    assert not web.reload_needed()


def test_before_openssl_3_2_tx_is_tx(helper: Helper) -> None:
    helper.facts["release"] = [3, 0]
    web = made(helper, tx_rx_consent=False)
    assert web.refusal("tx") is None
    assert web.switch(Wish("tx"))["effective_mode"] == "tx"
    assert web.about().modes == ("userspace", "tx")
    refused = web.refusal("rx")
    assert refused is not None
    assert (refused.code, "TLS 1.3" in refused.message) == ("service_no_ktls_receive", True)


def test_the_helper_is_asked_again_when_its_answer_is_old(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    web = made(helper)
    for _ in range(3):
        web.observe()
    assert helper.asked == ["look"]
    helper.started()
    web.observe()
    helper.drop_in.parent.mkdir(parents=True)
    helper.drop_in.touch()
    assert web.observe()["mode"] == "tx"
    assert helper.asked == ["look"] * 3
    now[0] += service.LOOK_AGAIN_S
    web.observe()
    assert helper.asked == ["look"] * 4


def test_what_ktls_off_did_is_seen_at_once(helper: Helper) -> None:
    web = made(helper)
    web.switch(Wish("tx"))
    helper.drop_in.unlink()
    helper.stale = 2
    status = web.observe()
    assert (status["mode"], status["effective_mode"], status["restart_needed"]) == ("userspace", "tx+rx", True)
    assert web.about().problem == f"{UNIT} runs on"
    helper.stale, helper.asks = 0, False
    helper.started()
    status = web.observe()
    assert (status["effective_mode"], status["restart_needed"]) == ("userspace", False)


def test_while_it_is_switched_the_status_does_not_wait(helper: Helper) -> None:
    """A restart may take long, and who asks for the status is not to hang with it."""
    web = made(helper)
    web.observe()
    inside, go = threading.Event(), threading.Event()

    def call(path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        inside.set()
        assert go.wait(10)
        return helper(path, request, timeout_s)

    web._tools = Tools(call, root=str(helper.root))
    thread = threading.Thread(target=web.switch, args=(Wish("tx"),))
    thread.start()
    assert inside.wait(10)
    helper.started()
    status = web.observe()
    assert (status["mode"], status["effective_mode"]) == ("tx", "userspace"), "ordered, and not yet there"
    go.set()
    thread.join()
    status = web.observe()
    assert (status["mode"], status["effective_mode"]) == ("tx", "tx+rx")


def test_a_helper_that_fails_leaves_nothing_believed(helper: Helper) -> None:
    web = made(helper)
    web.observe()
    helper.error = KtlsError("timeout", "no answer")
    with pytest.raises(KtlsError):
        web.switch(Wish("tx"))
    with pytest.raises(KtlsError):
        web.observe()
    helper.error = None
    web.observe()
    assert helper.asked == ["look", "on", "look", "look"]
    with pytest.raises(KtlsError):
        web.switch(Wish("tx"))
    assert helper.asked[4:] == [], "each try may restart the unit"
    assert web.refusal("tx") is None
    assert web.switch(Wish("tx"))["mode"] == "tx"


@pytest.mark.parametrize(
    ("mode", "facts", "settings", "code"),
    [
        ("tx", {}, {}, None),
        ("rx", {}, {"tx_rx_consent": False}, None),
        ("tx", {}, {"tx_rx_consent": False}, "tx_means_rx"),
        ("tx", {"backend": "gnutls", "library": "GnuTLS 3.8.9"}, {"tx_rx_consent": False}, "tx_means_rx"),
        ("tx", {"backend": "gnutls", "library": "GnuTLS 3.8.9"}, {}, None),
        ("hw", {}, {}, "phase_not_for_datapath"),
        ("tx", {"ktls_built": False}, {}, "service_library_without_ktls"),
        ("tx", {}, {"restart_ok": False}, "no_restart_consent"),
        ("tx", {"restart_ok": False}, {}, "no_restart_consent"),
        ("tx", {"active": False}, {"restart_ok": False}, None),
        ("tx", {"asks": True}, {"restart_ok": False}, None),
    ],
)
def test_refusals(helper: Helper, mode: str, facts: dict[str, Any], settings: dict[str, Any], code: str | None) -> None:
    helper.facts.update(facts)
    found = made(helper, **settings).refusal(mode)
    assert (found and found.code) == code
    assert helper.asked == ["look"]


def test_what_the_helper_refuses_is_the_refusal(helper: Helper) -> None:
    helper.error = KtlsError("service_program_never_ktls", "never")
    found = made(helper).refusal("tx")
    assert found is helper.error


def test_connections_are_the_kernels(helper: Helper) -> None:
    web = made(helper, Seen(1.0, 0.0, FLOWS))
    status = web.observe()
    assert status["connections"] == {"ktls_tx": 2, "userspace": 1}
    assert status["bytes"] == {"ktls_tx": 100, "userspace": 7}
    assert "connections" not in made(helper).observe()


def test_what_is_left_after_off_is_counted(helper: Helper) -> None:
    helper.restarts = False
    helper.asks = True
    web = made(helper, Seen(1.0, 0.0, FLOWS))
    assert web.drain() is None
    web.switch(Wish("userspace"))
    left = web.drain()
    assert left is not None
    assert (left.processes, left.connections) == (0, 2)
    about = web.about().as_dict()
    assert (about["switch"], about["consent"]) == ("restart", {"tx_rx": True, "restart": True})
    assert about["draining"] == {"processes": 0, "connections": 2}


def test_nothing_is_claimed_before_anybody_was_asked(helper: Helper) -> None:
    about = made(helper).about().as_dict()
    assert (about["modes"], about["program"], about["draining"], about["problem"]) == (["userspace"], None, None, None)


def test_after_a_restart_it_is_waited_for(helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        made(helper, port=listener.getsockname()[1]).switch(Wish("tx"))
        port = listener.getsockname()[1]
    monkeypatch.setattr(service, "LISTEN_WAIT_S", 0.3)
    with pytest.raises(KtlsError) as caught:
        made(helper, port=port).switch(Wish("userspace"))
        made(helper, port=port).switch(Wish("tx"))
    assert caught.value.code == "not_listening"
