# SPDX-License-Identifier: Apache-2.0
"""The kinds of datapaths, and the sidecar as one of them."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from ktls_host.datapath import outside, registry
from ktls_host.datapath.model import TX_RX, Consent, Flow, Seen, Tools, Wish, fulfils, tx_means_rx
from ktls_host.errors import KtlsError


class Calls:
    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer
        self.made: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        self.made.append((path, request))
        return self.answer


@pytest.mark.parametrize("kind", registry.KINDS)
def test_each_kind_has_a_module_with_both_of_its_parts(kind: str) -> None:
    module = importlib.import_module(f"ktls_host.datapath.{kind}")
    assert callable(module.parse)
    assert callable(module.make)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ([], "datapath is not an object"),
        ({"kind": "apache"}, "datapath.kind is not one of sidecar, nginx"),
        ({"kind": "sidecar", "colour": 1}, "unknown key colour"),
        ({"socket": 3}, "datapath.socket is missing or not a text"),
    ],
)
def test_what_cannot_be_used_is_named(raw: object, said: str) -> None:
    with pytest.raises(KtlsError) as caught:
        registry.parse(raw, "agent.json")
    assert caught.value.code == "bad_config"
    assert said in caught.value.message
    assert caught.value.message.startswith("agent.json: ")


def test_sidecar_is_asked_as_it_always_was() -> None:
    calls = Calls({"ok": True, "version": "1", "mode": "tx", "drain": {"left": 4, "deadline_left_s": None}})
    sidecar = registry.make(registry.parse({"socket": "/s"}, "x"), Tools(calls))
    assert sidecar.observe() == {key: value for key, value in calls.answer.items() if key != "ok"}
    sidecar.switch(Wish("tx"))
    sidecar.switch(Wish("hw", 0.5, tls12=True))
    assert calls.made == [
        ("/s", {"verb": "status"}),
        ("/s", {"verb": "mode", "mode": "tx"}),
        ("/s", {"verb": "mode", "mode": "hw", "share": 0.5, "tls12": True}),
    ]
    about = sidecar.about().as_dict()
    assert (about["kind"], about["unit"], about["version"]) == ("sidecar", "ktls-sidecar.service", "1")
    assert about["experiments"] is True
    assert about["draining"] == {"processes": 0, "connections": 4}
    assert sidecar.refusal("tx") is None
    assert not sidecar.reload_needed()
    assert not sidecar.restart_needed()


def test_tx_is_refused_where_it_means_both_unless_consented_to() -> None:
    assert tx_means_rx(Consent(), "nginx", (3, 0, 17)) is None
    assert tx_means_rx(Consent(tx_rx=True), "nginx", (3, 5, 5)) is None
    refusal = tx_means_rx(Consent(), "nginx", (3, 5, 5))
    assert refusal is not None
    assert refusal.code == "tx_means_rx"
    assert "OpenSSL 3.5.5" in refusal.message
    assert [fulfils(effective, "tx") for effective in ("tx", TX_RX, "rx", "userspace")] == [True, True, False, False]
    assert not fulfils(TX_RX, "rx")


def test_what_is_not_known_is_absent() -> None:
    assert outside.counted(None, "nginx") == {}
    flows = (
        Flow(443, "nginx", "TLSv1.3", "aes-gcm-256", "sw", "sw", 2, 100, 10),
        Flow(443, "nginx", "", "", "none", "none", 1, 7, 3),
        Flow(8443, "ktls-sidecar", "", "", "none", "none", 9, 9, 9),
    )
    assert outside.counted(Seen(1.0, 0.0, flows), "nginx") == {
        "connections": {"ktls_tx": 2, "userspace": 1},
        "bytes": {"ktls_tx": 100, "userspace": 7},
        "ktls_rx": {"connections": 2, "bytes": 10},
    }


def test_open_connections_are_those_of_now_less_what_others_have() -> None:
    mine = Flow(443, "nginx", "TLSv1.3", "AES-256-GCM", "sw", "none", 2)
    other = Flow(8443, "ktls-sidecar", "TLSv1.3", "AES-256-GCM", "sw", "none", 3)
    seen = Seen(1.0, 0.0, (mine, other))
    assert outside.ktls_open(None, "nginx", None) is None
    assert outside.ktls_open(seen, "nginx", None) == 2
    assert outside.ktls_open(None, "nginx", 4) == 4
    assert outside.ktls_open(seen, "nginx", 10) == 7
    assert outside.ktls_open(seen, "nginx", 0) == 0
