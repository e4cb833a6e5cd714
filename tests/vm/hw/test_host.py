# SPDX-License-Identifier: Apache-2.0
"""Phase hw on one host, with the played card of the rig: another machine downloads over the network between them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from .. import deployed as deployed_hosts
from ..conftest import StartLab
from .hosts import CARD, SIZE, Pair

SLOW_S = "25"


@pytest.fixture(scope="module")
def pair(start_lab: StartLab) -> Iterator[Pair]:
    """Return two hosts with agent, sidecar and a played card on the network between them, in userspace.

    Consent to TLS 1.2 is given on the one that serves.
    """
    fleet = deployed_hosts.start(start_lab, "hw", ("debian13", "debian13"), rig=True)
    pair = Pair(fleet)
    pair.prepare()
    yield pair
    fleet.lab.down()


def settled(pair: Pair, before: dict[str, Any]) -> None:
    """Wait until the card is as it was, and every step of the revert is done."""

    def done() -> bool:
        steps = pair.agent("status")["revert"]
        return bool(steps) and all(one["result"] != "failed" for one in steps)

    pair.fleet.wait("every step of the revert", done, 90)
    assert pair.card()["features"] == before["features"]


def test_phase_hw_from_the_order_to_the_last_byte_and_back(pair: Pair) -> None:
    """The card encrypts what TLS 1.2 by consent brings it; with the phase all of that goes, and no download breaks."""
    before = pair.card()
    assert before["features"] == {"tls-hw-tx-offload": "on", "tls-hw-rx-offload": "off"}, "as mlx5 comes up"
    assert pair.download().told()["version"] == "TLSv1.3"

    # tx: software is software, whatever the driver's default is, and TLS 1.3 stays.
    pair.order("tx", "software")
    assert pair.card()["features"]["tls-hw-tx-offload"] == "off"
    plain = pair.download().told()
    assert (plain["version"], plain["sha256"]) == ("TLSv1.3", pair.sha256)
    now = pair.card()
    assert now["counters"]["tx_tls_encrypted_bytes"] == before["counters"]["tx_tls_encrypted_bytes"]
    software = now

    # hw: before and after are told, the card's own counter grows with the file.
    status = pair.order("hw", "hardware")
    assert status["phase"] == "hw"
    assert (status["probe"]["protocol"], status["probe"]["ktls_tx"]) == ("TLSv1.2", True), (
        "the self-test, over loopback"
    )
    slow = pair.download("/object", SLOW_S)
    pair.fleet.wait("a connection in the card", lambda: "hw" in pair.card()["conf"], 60)
    told = slow.told()
    assert (told["whole"], told["sha256"], told["version"]) == (True, pair.sha256, "TLSv1.2")
    assert "AES" in told["cipher"]
    assert "GCM" in told["cipher"]
    after = pair.card()
    grown = after["counters"]["tx_tls_encrypted_bytes"] - software["counters"]["tx_tls_encrypted_bytes"]
    assert SIZE <= grown < 1.2 * SIZE, "the card did it, and not only its name"
    assert after["features"] == {"tls-hw-tx-offload": "on", "tls-hw-rx-offload": "off"}
    assert after["stat"]["TlsTxDevice"] == software["stat"].get("TlsTxDevice", 0) + 1

    def seen() -> bool:
        shown = pair.agent("status")["hw"]
        return bool(shown) and (shown["encrypted_bytes"] or 0) >= grown and shown["sent"]["hw"] >= SIZE

    pair.fleet.wait("the agent's own account of it", seen, 60)
    shown = pair.agent("status")["hw"]
    assert shown["tls12_consent"] is True
    (card,) = shown["interfaces"]
    assert (card["name"], card["driver"], card["tx_on"], card["rx_on"], card["up"]) == (
        CARD,
        "tlssim",
        True,
        False,
        True,
    )
    assert card["counters"]["tx_tls_ctx"] == after["counters"]["tx_tls_ctx"]
    assert shown["open"]["stale"] == 0
    assert shown["sent"]["hw"] <= shown["sent"]["tls12_gcm"] <= shown["sent"]["total"]
    assert shown["problem"] is None, shown

    # Back, with downloads under way: from userspace the old ones end well and new ones are TLS 1.3 again.
    under_way = [pair.download("/object", "60") for _ in range(2)]
    pair.fleet.wait("both in the card", lambda: pair.card()["conf"].count("hw") == 2, 60)
    started = time.monotonic()
    pair.agent("revert", "--reason", "test")
    assert [one.running for one in under_way] == [True, True]
    assert pair.download().told()["version"] == "TLSv1.3"
    print(f"\nrevert and a whole new download under TLS 1.3: {time.monotonic() - started:.1f} s")
    assert [(one["whole"], one["sha256"]) for one in (d.told() for d in under_way)] == [(True, pair.sha256)] * 2
    settled(pair, software)


def test_a_link_flap_leaves_stale_sessions_and_the_doctor_names_them(pair: Pair) -> None:
    """What ``ss`` calls hw is in software after the link was down; the transfer itself survives."""
    pair.order("hw", "flap")
    slow = pair.download("/object", "40")
    pair.fleet.wait("a connection in the card", lambda: "hw" in pair.card()["conf"], 60)
    assert pair.story(pair.server, "flap")["complaints"] == []
    pair.fleet.wait("stale", lambda: pair.agent("status")["hw"]["open"] == {"hw": 1, "stale": 1}, 40)
    card = pair.card()
    assert card["conf"].count("hw") == 1, "the kernel still says so"
    assert card["counters"]["tx_tls_ctx"] == card["counters"]["tx_tls_del"], "the card knows better"
    found = {one["code"]: one for one in pair.agent("doctor")["findings"]}
    assert found["stale_hw"]["likelihood"] == "confirmed"
    assert "1 of 1 open connections that the kernel calls hw" in found["stale_hw"]["what"]
    assert "1 of the connections that the kernel calls hw" in " ".join(pair.agent("status")["problems"])
    told = slow.told()
    assert (told["whole"], told["sha256"]) == (True, pair.sha256)
    assert pair.download().told()["sha256"] == pair.sha256
    pair.agent("revert", "--reason", "test")


def test_only_sealed_content_is_sent_uncopied(pair: Pair) -> None:
    """TLS_TX_ZEROCOPY_RO: the pages themselves go out, so that a change of the file would end in a bad record."""
    pair.order("hw", "zerocopy")
    for path, uncopied in (("/sealed", 1), ("/object", 0)):
        before = pair.card()["counters"]["tx_tls_encrypted_bytes"]
        slow = pair.download(path, SLOW_S)
        sent: list[int] = []

        def sending(before: int = before, sent: list[int] = sent) -> bool:
            """Only then has the sidecar chosen; and it is the same look, for the next may come after the end."""
            now = pair.card()
            if "hw" in now["conf"] and now["counters"]["tx_tls_encrypted_bytes"] - before > SIZE // 64:
                sent.append(now["zerocopy"])
            return bool(sent)

        pair.fleet.wait(f"{path} is sent by the card", sending, 30)
        assert sent == [uncopied], path
        told = slow.told()
        assert (told["whole"], told["sha256"]) == (True, pair.sha256)
        pair.fleet.wait("its end", lambda: "hw" not in pair.card()["conf"], 30)
    pair.agent("revert", "--reason", "test")


def test_ktls_off_without_an_agent_takes_card_and_tls12_back(pair: Pair) -> None:
    """The shell alone: its flag ends the order in the sidecar, and by its records it finds the card."""
    pair.order("hw", "orphan")
    assert pair.download().told()["version"] == "TLSv1.2"
    told = pair.story(pair.server, "off_without_agent")
    assert any(line.startswith(f"nic ok off: {CARD}") for line in told["record"]), told
    assert pair.card()["features"] == {"tls-hw-tx-offload": "off", "tls-hw-rx-offload": "off"}
    new = pair.download().told()
    assert (new["version"], new["sha256"]) == ("TLSv1.3", pair.sha256)
    pair.shell(pair.server, "systemctl unmask --runtime ktls-agent; systemctl start ktls-agent")
    status = pair.agent("status")
    assert (status["phase"], status["off"]["flag"]) == ("userspace", True)
    pair.agent("clear")
