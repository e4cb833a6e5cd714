# SPDX-License-Identifier: Apache-2.0
"""What proves that a card works, what proves that it does not, and what proves nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_control.judge import hardware
from ktls_control.judge.gate import GatePolicy, judge_host
from ktls_control.judge.hardware import Margins, follow

BEFORE: dict[str, Any] = {
    "phase": "hw", "order": "pending", "ordered_phase": "hw", "epoch": 1,
    "probe": {"ok": True, "sha256_ok": True, "ktls_tx": True},
    "tls_stat": {"TlsTxSw": 5, "TlsTxDevice": 10, "TlsDecryptError": 0},
    "sockets": {"ktls_tx": 2, "ktls_rx": 0},
    "sidecar": {"pid": 7, "share": 1, "bytes": {"ktls_tx": 0, "userspace": 9}, "errors": {}, "by": []},
    "hw": {
        "tls12_consent": True,
        "interfaces": [{"name": "eth1", "driver": "mlx5_core", "tx_on": True, "rx_on": False, "up": True,
                        "counters": {}}],
        "encrypted_bytes": 700, "installed": 10, "software": 5, "open": {"hw": 4, "stale": 0},
        "sent": {"hw": 600, "tls12_gcm": 900, "total": 5_000},
        "anomalies": {"resync": 1, "drops": 2, "ooo": 3, "decrypt": 0},
    },
}  # fmt: skip
MILLION = 1_000_000


def after(**changes: Any) -> dict[str, Any]:
    """Ten million bytes later, all of them by the card; ``changes`` are amounts by which counts grew."""
    grown = {"encrypted": 10_050_000, "hw": 10_000_000, "eligible": 10_000_000, "total": 10_000_000, "installed": 40,
             "software": 0, "stale": 0, "decrypt": 0, "drops": 0, "resync": 0, **changes}  # fmt: skip
    status = copy.deepcopy(BEFORE)
    hw = status["hw"]
    hw["encrypted_bytes"] += grown["encrypted"]
    for key, ours in (("hw", "hw"), ("tls12_gcm", "eligible"), ("total", "total")):
        hw["sent"][key] += grown[ours]
    hw["installed"] += grown["installed"]
    hw["software"] += grown["software"]
    hw["open"]["stale"] = grown["stale"]
    for key in ("decrypt", "drops", "resync"):
        hw["anomalies"][key] += grown[key]
    status["tls_stat"]["TlsTxDevice"] += grown["installed"]
    status["tls_stat"]["TlsTxSw"] += grown["software"]
    status["sidecar"]["by"] = [{"assigned": "hw", "path": "ktls_tx", "bytes_total": grown["total"]}]
    return status


def verdict(status: dict[str, Any], before: dict[str, Any] = BEFORE, **margins: Any) -> tuple[str, dict[str, str]]:
    found = judge_host("hw", before, status, GatePolicy(0.99, MILLION, Margins(**margins)))
    return found.outcome, {check.name: check.detail for check in found.checks if check.outcome != "pass"}


def test_a_card_that_works_passes() -> None:
    assert verdict(after()) == ("pass", {})
    assert judge_host("hw", BEFORE, after(), GatePolicy()).evidence["hw"]["fallback"] == 0


@pytest.mark.parametrize(
    ("changes", "check", "words"),
    [
        ({"encrypted": 0}, "card", "stale: the card encrypted 0 bytes, and connections called hw sent 10000000"),
        ({"encrypted": 7_900_000, "stale": 3}, "card", "3 connections are stale"),
        ({"hw": 0, "installed": 0, "encrypted": 0, "eligible": 0, "software": 40}, "card", "nothing is offloaded"),
        (
            {"installed": 30, "software": 10, "hw": 75_000_000, "eligible": 100_000_000, "encrypted": 76_000_000},
            "fallback",
            "the card refuses sessions",
        ),
        ({"decrypt": 1}, "decrypt", "1 errors of decryption"),
        ({"drops": 2}, "anomalies", "drops 2, resync 0 in 40 sessions"),
        ({"resync": 9}, "anomalies", "resync 9"),
    ],
)
def test_a_card_that_does_not_work_fails(changes: dict[str, int], check: str, words: str) -> None:
    outcome, bad = verdict(after(**changes))
    assert outcome == "fail"
    assert words in bad[check], bad


def test_what_was_never_offered_to_a_card_is_not_its_refusal() -> None:
    # TLS 1.3 and downloads over loopback are sessions in software too.
    assert verdict(after(installed=40, software=60, total=60_000_000)) == ("pass", {})


def test_a_quiet_host_that_downloads_from_itself_is_not_called_full() -> None:
    quiet = after(installed=10, software=10, hw=2_500_000, eligible=5_000_000, encrypted=2_600_000)
    outcome, bad = verdict(quiet)
    assert (outcome, list(bad)) == ("inconclusive", ["fallback"])
    assert "too few to tell them from the host's downloads from itself" in bad["fallback"]


def test_stale_connections_are_named_though_the_card_encrypts_enough() -> None:
    found = judge_host("hw", BEFORE, after(encrypted=9_000_000, stale=2), GatePolicy())
    assert found.outcome == "pass"
    assert any("2 connections are stale" in check.detail for check in found.checks)


def test_margins_are_the_plans() -> None:
    assert verdict(after(encrypted=7_000_000), card_share=0.6)[0] == "pass"
    assert verdict(after(drops=2), anomalies=0.05)[0] == "pass"
    assert verdict(after(installed=30, software=10, hw=75 * MILLION, eligible=100 * MILLION,
                         encrypted=80 * MILLION), fallback=0.3)[0] == "pass"  # fmt: skip


def without(path: str) -> dict[str, Any]:
    status = after()
    where = status["hw"]
    *way, last = path.split(".")
    for name in way:
        where = where[name]
    del where[last]
    return status


@pytest.mark.parametrize(
    "path",
    ["encrypted_bytes", "installed", "software", "interfaces", "sent", "sent.hw", "anomalies", "anomalies.decrypt",
     "anomalies.drops", "anomalies.resync"],
)  # fmt: skip
def test_what_is_missing_is_inconclusive_and_never_a_pass(path: str) -> None:
    assert verdict(without(path))[0] == "inconclusive"


def test_an_agent_of_another_release_and_a_host_whose_card_has_gone() -> None:
    old = after()
    del old["hw"]
    assert verdict(old)[0] == "inconclusive"
    assert verdict(after(), {**BEFORE, "hw": None})[0] == "inconclusive"
    gone = {**after(), "hw": None}
    assert "no interface of this host offers it" in verdict(gone)[1]["features"]
    off = after()
    off["hw"]["interfaces"][0]["tx_on"] = False
    assert verdict(off)[1]["features"] == "TLS transmit offload is off: eth1"


def test_counts_that_went_backwards_were_started_anew() -> None:
    driver = after()
    driver["hw"]["encrypted_bytes"] = 3
    assert verdict(driver)[0] == "inconclusive"


def test_a_driver_that_counts_no_bytes_proves_nothing() -> None:
    nfp = after()
    nfp["hw"]["encrypted_bytes"] = None
    outcome, bad = verdict(nfp)
    assert (outcome, "counts no bytes" in bad["card"]) == ("inconclusive", True)


def test_too_little_traffic_is_no_failure() -> None:
    quiet = after(hw=0, installed=0, encrypted=0, eligible=0, total=5_000, software=1)
    assert "card" in verdict(quiet)[1]
    assert verdict(quiet)[0] == "inconclusive"


LEAVES = st.one_of(st.none(), st.integers(-5, 10**9), st.text(max_size=3), st.booleans(), st.floats(allow_nan=True))
ANYTHING = st.recursive(LEAVES, lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(
    st.sampled_from(["encrypted_bytes", "sent", "hw", "tls12_gcm", "installed", "open", "stale", "interfaces", "name"]),
    inner, max_size=4)), max_leaves=8)  # fmt: skip


@given(ANYTHING)
@settings(max_examples=150, deadline=None)
def test_nonsense_of_a_host_neither_passes_nor_raises(said: Any) -> None:
    assert verdict({**after(), "hw": said})[0] != "pass"
    follow(None, {"hw": said})
    hardware.eligible_share({"hw": said})


# A card that is looked at again and again


def look(encrypted: int, sent: int) -> dict[str, Any]:
    return {"hw": {"encrypted_bytes": encrypted, "sent": {"hw": sent}, "open": {"hw": 4, "stale": 2}}}


def said(*looks: tuple[int, int]) -> str | None:
    known, why = None, None
    for encrypted, sent in looks:
        known, why = follow(known, look(encrypted * MILLION, sent * MILLION))
        if why:
            return why
    return None


def test_a_count_that_stands_still_while_bytes_flow_is_stale() -> None:
    why = said((5, 5), (9, 9), (9, 10), (9, 11), (9, 12))
    assert why is not None
    assert "2 of them known to be stale sent 3000000 bytes" in why


@pytest.mark.parametrize(
    "looks",
    [
        # What was sent is read by sampling: the last of it arrives after the card's count of it, once.
        [(5, 0), (9, 0), (9, 9), (9, 9), (9, 9)],
        [(5, 5), (5, 5), (5, 5), (5, 5), (5, 5)],
        [(5, 5), (5, 6), (5, 7), (6, 8), (6, 9), (7, 10)],
        # The agent was started again: it counts from the beginning.
        [(5, 50), (5, 1), (5, 1), (5, 2), (5, 3)],
    ],
)
def test_a_card_that_rests_or_whose_traffic_is_told_late_is_not_stale(looks: list[tuple[int, int]]) -> None:
    assert said(*looks) is None


def test_a_few_bytes_are_no_proof_that_it_stands_still() -> None:
    known, why = None, None
    for sent in range(0, 900_000, 100_000):
        known, why = follow(known, look(5, sent))
    assert why is None
    assert follow(known, look(5, 2_000_000))[1] is not None
