# SPDX-License-Identifier: Apache-2.0
"""The played card on one host of each kernel: real sockets over a wire whose other end is a namespace."""

from __future__ import annotations

import random
from typing import Any

import pytest

from .hosts import IMAGES, Rig

MIB = 1 << 20
FEATURES = ("tls-hw-tx-offload", "tls-hw-rx-offload")
NAMES = [
    *("tx_tls_ctx", "tx_tls_del", "tx_tls_refused", "tx_tls_encrypted_packets", "tx_tls_encrypted_bytes", "tx_tls_ooo"),
    *("tx_tls_skip_no_sync_data", "tx_tls_drop_no_sync_data", "rx_tls_ctx", "rx_tls_del", "rx_tls_resync_req_pkt"),
    *("sim_corrupted", "sim_leaked", "sim_dropped", "sim_reordered"),
]
#: What Python says of it with OpenSSL 3.0 and with 3.5.
BROKEN_RECORD = ("DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE")

pytestmark = pytest.mark.parametrize("image", IMAGES)


def is_hardware(told: dict[str, Any], size: int) -> None:
    """Check a transfer of the card, from what the kernel, the card and the receiver say."""
    assert told["sent"]["right"], told
    assert told["conf"]["tx"] == "hw", told["ss"]
    assert told["open"]["TlsCurrTxDevice"] == told["tls"]["TlsTxDevice"] == 1
    assert "TlsTxSw" not in told["tls"]
    assert told["card"]["tx_tls_ctx"] == told["card"]["tx_tls_del"] == 1
    assert told["card"]["tx_tls_encrypted_bytes"] >= size
    assert told["card"]["tx_tls_encrypted_packets"] >= size // 65536
    assert told["seen"]["marked"] == 0 < told["seen"]["frames"]


def is_software(told: dict[str, Any]) -> None:
    """Check a transfer of kernel TLS that the card had no part in."""
    assert told["sent"]["right"], told
    assert told["conf"]["tx"] == "sw", told["ss"]
    assert told["tls"]["TlsTxSw"] == 1 and "TlsTxDevice" not in told["tls"]
    assert not {name for name in told["card"] if name != "tx_tls_refused"}, told["card"]
    assert told["seen"]["marked"] == 0 < told["seen"]["frames"]


def test_the_module_is_there_and_not_loaded(rig: Rig, image: str) -> None:
    kernel, *rest = rig.at_start[image]
    assert rest == [kernel, "tlssim.ko"], "marker, module, and nothing loaded"


def test_what_the_card_is(rig: Rig, image: str) -> None:
    told = rig.tell(image, "card")
    assert (told["driver"], told["kind"], told["link"]) == ("driver: tlssim", "tlssim", "rig0")
    assert told["same_mac"]
    assert list(told["counters"]) == NAMES and set(told["counters"].values()) == {0}
    assert [told["features"][name] for name in FEATURES] == ["on", "off"]
    assert [told["switched"][name] for name in FEATURES] == ["off", "on"]
    assert told["without_checksums"]["tls-hw-tx-offload"].startswith("off"), "the kernel takes TLS away with them"
    assert told["carrier"] == ["up", "down", "up"]
    assert told["refused"][0] and "Needs a device below" in told["refused"][1]
    assert told["gone_with_the_one_below"]


def test_sessions_in_hardware_and_those_that_cannot(rig: Rig, image: str) -> None:
    told = rig.tell(image, "sessions")
    is_hardware(told["gcm128"], MIB)
    is_hardware(told["gcm256"], MIB // 4)
    is_hardware(told["ipv6"], MIB // 4)
    assert "version: 1.2 cipher: aes-gcm-128" in told["gcm128"]["ss"]
    is_software(told["tls13"])
    is_software(told["chacha20"])
    assert "tx_tls_refused" not in told["tls13"]["card"], "the kernel does not even ask the card"


def test_a_full_table_and_a_feature_that_is_off(rig: Rig, image: str) -> None:
    told = rig.tell(image, "refusals")
    for number in (28, 12, 95, 0):
        is_software(told[f"errno{number}"])
        assert told[f"errno{number}"]["card"] == {"tx_tls_refused": 1}
    assert told["first"]["tx"] == "hw" and told["first"]["right"]
    assert told["first_when_off"]["tx"] == "hw" and told["first_when_off"]["right"]
    assert told["first_still_works"]["tx_tls_encrypted_bytes"] >= MIB // 4, "only new sessions are software"
    is_software(told["new_when_off"])
    assert told["new_when_off"]["card"] == {}
    is_hardware(told["room_again"], MIB // 4)


def test_each_fault_alone(rig: Rig, image: str) -> None:
    told = rig.tell(image, "faults")
    corrupt, leak, drop, reorder = (told[name] for name in ("corrupt", "leak", "drop", "reorder"))
    for broken in (corrupt, leak):
        assert not broken["right"] and broken["honest"], broken
        assert any(words in broken["receiver"] for words in BROKEN_RECORD), broken
        assert "TlsDecryptError" not in broken["tls"], "a receiver that is not in the kernel is the only one who knows"
    assert corrupt["card"]["sim_corrupted"] >= 1 and corrupt["seen"]["marked"] == 0
    assert leak["card"]["sim_leaked"] >= 1 and leak["seen"]["marked"] >= 1
    assert leak["card"]["tx_tls_encrypted_bytes"] > 0, "a card that leaks says that it encrypts"
    for survived, counter in ((drop, "sim_dropped"), (reorder, "sim_reordered")):
        assert survived["right"], survived
        assert survived["card"][counter] >= 1 and survived["card"]["tx_tls_ooo"] >= 1, survived
        assert survived["seen"]["marked"] == 0
    is_hardware(told["after"], MIB // 4)


def test_a_link_that_was_down_leaves_a_session_that_only_says_hardware(rig: Rig, image: str) -> None:
    told = rig.tell(image, "flap")
    assert told["first"]["right"] and told["second"]["right"], told
    assert told["conf"]["tx"] == "hw" and told["open"]["TlsCurrTxDevice"] == 1, "what ss and tls_stat go on saying"
    assert "tx_tls_encrypted_bytes" not in told["card"], "what the card says"
    assert told["sessions"]["tx_tls_ctx"] == told["sessions"]["tx_tls_del"] == 1
    assert told["new"]["conf"]["tx"] == "hw" and told["new"]["sent"]["right"]
    assert told["new"]["card"]["tx_tls_encrypted_bytes"] >= MIB // 4, "only a new session is hardware again"


def test_receive_is_accepted_and_nothing_decrypted(rig: Rig, image: str) -> None:
    told = rig.tell(image, "receive")
    gcm, chacha20 = told["gcm"], told["chacha20"]
    assert gcm["conf"] == {"tx": "hw", "rx": "hw"}
    assert gcm["up"]["right"] and gcm["down"]["right"], gcm
    assert gcm["tls"]["TlsRxDevice"] == 1
    assert gcm["tls"]["TlsRxDeviceResync"] == gcm["card"]["rx_tls_resync_req_pkt"] >= 1
    assert gcm["card"]["rx_tls_ctx"] == gcm["card"]["rx_tls_del"] == 1
    assert chacha20["conf"] == {"tx": "sw", "rx": "sw"}
    assert chacha20["up"]["right"] and chacha20["card"] == {"tx_tls_refused": 1}, "this one the kernel offers the card"


def test_the_module_goes_under_an_open_connection(rig: Rig, image: str) -> None:
    told = rig.tell(image, "removal")
    assert told["first"]["right"] and told["gone"]
    assert told["conf"]["tx"] == "hw" and told["open"]["TlsCurrTxDevice"] == 1
    assert told["closed"], "the counters of open sessions clear at close"
    is_hardware(told["again"], MIB // 4)


def test_random_faults(rig: Rig, image: str) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    told = rig.tell(image, "chaos", str(seed), "8")
    assert told["wrong"] == [], (seed, told["told"])
    assert told["balanced"], (seed, told["card"])
    is_hardware(told["after"], MIB // 4)
