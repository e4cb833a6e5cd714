# SPDX-License-Identifier: Apache-2.0
"""The gate: what passes, what fails and where, and that missing data never passes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_control.judge.gate import GatePolicy, judge_host

POLICY = GatePolicy(min_share=0.99, min_bytes=1000)
Status = dict[str, Any]


def status(ktls: int = 0, userspace: int = 0, sessions: int = 0) -> Status:
    carried = {"ktls_tx": ktls, "userspace": userspace}
    return {
        "order": "pending",
        "ordered_phase": "tx",
        "phase": "tx",
        "epoch": 3,
        "tls_stat": {"TlsTxSw": sessions, "TlsDecryptError": 0},
        "sockets": {"ktls_tx": 1, "ktls_rx": 0, "userspace": 0},
        "sidecar": {"pid": 7, "bytes": carried, "errors": {"ssl_error": 4}},
        "probe": {"ok": True, "sha256_ok": True, "ktls_tx": True, "error": None},
    }


BEFORE = status(ktls=500, userspace=10_000, sessions=5)
AFTER = status(ktls=100_500, userspace=10_100, sessions=9)


def test_a_healthy_host_passes_and_shows_its_numbers() -> None:
    verdict = judge_host("tx", BEFORE, AFTER, POLICY)
    assert verdict.outcome == "pass", verdict.reason
    assert (verdict.bytes_on_path, verdict.bytes_total) == (100_000, 100_100)
    assert verdict.share == pytest.approx(0.999, abs=1e-4)


def test_under_an_experiment_those_who_draw_userspace_are_no_fault() -> None:
    before, after = copy.deepcopy(BEFORE), copy.deepcopy(AFTER)
    after["sidecar"].update(share=0.0, by=[row("tx", "ktls_tx", 99_000), row("userspace", "userspace", 90_000)])
    before["sidecar"].update(share=1.0, by=[])
    after["probe"]["ktls_tx"] = False
    assert judge_host("tx", before, after, POLICY).outcome == "fail", "nobody said that an experiment runs"
    after["experiment"] = {"state": "running"}
    verdict = judge_host("tx", before, after, POLICY)
    assert (verdict.outcome, verdict.share) == ("pass", 1.0), verdict.reason
    after["tls_stat"]["TlsTxSw"] = before["tls_stat"]["TlsTxSw"]
    assert judge_host("tx", before, after, POLICY).outcome == "inconclusive"
    after["experiment"] = {"state": "ended"}
    assert judge_host("tx", before, after, POLICY).outcome == "fail"


def row(assigned: str, path: str, sent: int) -> dict[str, Any]:
    return {"assigned": assigned, "path": path, "bytes_total": sent}


@pytest.mark.parametrize(
    ("share", "rows", "outcome"),
    [
        (1.0, [row("tx", "ktls_tx", 99_000), row("userspace", "userspace", 90_000)], "pass"),
        (1.0, [row("tx", "ktls_tx", 90_000), row("tx", "userspace", 9_000)], "fail"),
        (1.0, [row("userspace", "userspace", 99_000)], "inconclusive"),
        (0.5, [row("tx", "ktls_tx", 99_000), row("userspace", "userspace", 90_000)], "fail"),
    ],
    ids=["begun before the order", "fell back", "nothing under the order", "others drew userspace on purpose"],
)
def test_what_was_accepted_before_the_order_does_not_count(
    share: float, rows: list[dict[str, Any]], outcome: str
) -> None:
    before, after = copy.deepcopy(BEFORE), copy.deepcopy(AFTER)
    before["sidecar"].update(share=share, by=[row("userspace", "userspace", 10_000)])
    sent = {name: sum(one["bytes_total"] for one in rows if one["path"] == name) for name in ("ktls_tx", "userspace")}
    sent["userspace"] += 10_000
    after["sidecar"].update(
        share=share, by=[row("userspace", "userspace", 10_000), *rows], bytes={**sent, "ktls_tx": sent["ktls_tx"] + 500}
    )
    assert judge_host("tx", before, after, POLICY).outcome == outcome


def change(edit: Callable[[Status], object]) -> Status:
    after = copy.deepcopy(AFTER)
    edit(after)
    return after


FAULTS: dict[str, tuple[Callable[[Status], object], str, str]] = {
    "wrong hash": (lambda s: s["probe"].update(sha256_ok=False), "probe", "fail"),
    "probe not kTLS": (lambda s: s["probe"].update(ktls_tx=False), "probe", "fail"),
    "probe unknown": (lambda s: s["probe"].update(ktls_tx=None), "probe", "fail"),
    "no probe": (lambda s: s.update(probe=None), "probe", "inconclusive"),
    "new errors": (lambda s: s["sidecar"]["errors"].update(ssl_error=5), "errors", "fail"),
    "new kind of error": (lambda s: s["sidecar"]["errors"].update(io_error=1), "errors", "fail"),
    "restarted": (lambda s: s["sidecar"].update(pid=8), "errors", "fail"),
    "sidecar gone": (lambda s: s.update(sidecar=None), "errors", "inconclusive"),
    "leak": (lambda s: s["sidecar"]["bytes"].update(userspace=12_000), "share", "fail"),
    "no traffic": (lambda s: s["sidecar"].update(bytes=BEFORE["sidecar"]["bytes"]), "share", "inconclusive"),
    "counter went back": (lambda s: s["sidecar"]["bytes"].update(ktls_tx=1), "share", "inconclusive"),
    "reverted": (lambda s: s.update(order="reverted", phase="userspace"), "order", "fail"),
    "other order": (lambda s: s.update(ordered_phase="userspace"), "order", "fail"),
    "not in force": (lambda s: s.update(phase="userspace"), "phase", "fail"),
    "no tls_stat": (lambda s: s.update(tls_stat={}), "kernel", "inconclusive"),
    "no sessions": (lambda s: s["tls_stat"].update(TlsTxSw=5), "kernel", "fail"),
    "decrypt errors": (lambda s: s["tls_stat"].update(TlsDecryptError=1), "kernel", "fail"),
    "receives too": (lambda s: s["sockets"].update(ktls_rx=1), "receive", "fail"),
    "sockets unread": (lambda s: s.update(sockets=None), "receive", "inconclusive"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_caught_by_its_own_check(fault: str) -> None:
    edit, name, outcome = FAULTS[fault]
    verdict = judge_host("tx", BEFORE, change(edit), POLICY)
    assert verdict.outcome != "pass"
    assert {check.name: check.outcome for check in verdict.checks}[name] == outcome


def test_a_host_that_does_not_answer_fails() -> None:
    assert judge_host("tx", BEFORE, None, POLICY).outcome == "fail"
    assert judge_host("tx", None, AFTER, POLICY).outcome == "fail"


def test_a_download_from_outside_counts() -> None:
    assert judge_host("tx", BEFORE, AFTER, POLICY, {"ok": True, "error": None}).outcome == "pass"
    failed = judge_host("tx", BEFORE, AFTER, POLICY, {"ok": False, "error": "content hash x"})
    assert failed.outcome == "fail"
    assert "outside: content hash x" in failed.reason


def test_just_under_the_share_is_not_rounded_up() -> None:
    after = status(ktls=500 + 98_999, userspace=10_000 + 1_001, sessions=9)
    verdict = judge_host("tx", BEFORE, after, POLICY)
    assert verdict.outcome == "fail"
    assert "98.99 %" in verdict.reason


@given(st.sets(st.sampled_from(sorted(AFTER))))
def test_whatever_is_missing_never_passes(missing: set[str]) -> None:
    after = {key: value for key, value in AFTER.items() if key not in missing}
    needed = missing - {"epoch"}
    outcome = judge_host("tx", BEFORE, after, POLICY).outcome
    assert outcome == "pass" if not needed else outcome != "pass"


def receiving(sent: int, sessions: int) -> Status:
    """A host on phase ``rx`` whose connections send ``sent`` bytes."""
    host = status(ktls=sent, sessions=sessions)
    host.update(phase="rx", ordered_phase="rx")
    host["tls_stat"]["TlsRxSw"] = sessions
    host["sockets"]["ktls_rx"] = 1
    host["probe"]["ktls_rx"] = True
    host["sidecar"].update(share=1.0, by=[row("rx", "ktls_tx_rx", sent)])
    return host


RX_BEFORE, RX_AFTER = receiving(500, 5), receiving(100_500, 9)
RX_FAULTS: dict[str, tuple[Callable[[Status], object], str, str]] = {
    "sends only": (
        lambda s: s["sidecar"].update(by=[row("rx", "ktls_tx_rx", 500), row("rx", "ktls_tx", 100_000)]),
        "share",
        "fail",
    ),
    "rows unknown": (lambda s: s["sidecar"].pop("by"), "share", "inconclusive"),
    "receive sessions unread": (lambda s: s["tls_stat"].pop("TlsRxSw"), "kernel", "inconclusive"),
    "no receive sessions": (lambda s: s["tls_stat"].update(TlsRxSw=5), "kernel", "fail"),
    "probe sends only": (lambda s: s["probe"].update(ktls_rx=False), "probe", "fail"),
}


def test_receive_passes_when_bytes_came_and_went_through_the_kernel() -> None:
    verdict = judge_host("rx", RX_BEFORE, RX_AFTER, POLICY)
    assert verdict.outcome == "pass", verdict.reason
    assert verdict.bytes_on_path == 100_000


@pytest.mark.parametrize("fault", RX_FAULTS)
def test_each_fault_of_receive_is_caught_by_its_own_check(fault: str) -> None:
    edit, name, outcome = RX_FAULTS[fault]
    after = copy.deepcopy(RX_AFTER)
    edit(after)
    verdict = judge_host("rx", RX_BEFORE, after, POLICY)
    assert verdict.outcome != "pass"
    assert {check.name: check.outcome for check in verdict.checks}[name] == outcome
