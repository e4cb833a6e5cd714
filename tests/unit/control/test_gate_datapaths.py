# SPDX-License-Identifier: Apache-2.0
"""The gate of a host that nginx or a service serves: by what the kernel saw, and never better than what is known."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from ktls_control.judge import moved
from ktls_control.judge.gate import Check, GatePolicy, Verdict, judge_host
from ktls_control.rollout import judging, machine

POLICY = GatePolicy(min_share=0.99, min_bytes=1000)
Status = dict[str, Any]


def status(
    ktls: int = 0, userspace: int = 0, sessions: int = 0, lost: int = 0, presumed: int = 0, **about: Any
) -> Status:
    """An agent in front of nginx, with bytes as the kernel attributed them; another unit sends in userspace."""
    sent = {"sent": ktls + userspace, "ktls_sent": ktls, "received": 100, "ktls_received": 50}
    total = {
        "sent": ktls + userspace + 10**9 + lost, "received": 100, "ktls_sent_share": 0.0, "ktls_received_share": 0.0,
        "by_process": {"nginx": sent, "postfix": {**dict.fromkeys(sent, 0), "sent": 10**9}},
        "unattributed": {"sent": lost, "received": 0},
        "presumed": {"sent": presumed, "received": presumed // 10},
    }  # fmt: skip
    datapath = {
        "kind": "nginx", "unit": "nginx.service", "experiments": False, "modes": ["userspace", "tx+rx", "rx"],
        "consent": {"tx_rx": True, "restart": False}, "switch": "reload", "draining": None, **about,
    }  # fmt: skip
    return {
        "order": "pending", "ordered_phase": "tx", "phase": "tx+rx", "epoch": 3, "datapath": datapath,
        "tls_stat": {"TlsTxSw": sessions, "TlsDecryptError": 0},
        "sockets": {"ktls_tx": 9, "ktls_rx": 9, "userspace": 0},
        "sidecar": {"pid": 7, "errors": {"5xx": 4}, "connections_total": {"ktls_tx": sessions, "userspace": 5}},
        "evidence": {"known": True, "age_s": 2.0, "since_s": 1.0, "total": total, "interval": None},
        "probe": {"ok": True, "sha256_ok": True, "ktls_tx": True, "ktls_rx": True, "error": None},
    }  # fmt: skip


BEFORE = status(ktls=500, userspace=10_000, sessions=5)
AFTER = status(ktls=100_500, userspace=10_100, sessions=9)


def by_name(verdict: Verdict) -> dict[str, Check]:
    return {check.name: check for check in verdict.checks}


def changed(found: Status, **keys: Any) -> Status:
    made = copy.deepcopy(found)
    for path, value in keys.items():
        place, _, name = path.rpartition("__")
        target = made
        for part in place.split("__") if place else ():
            target = target[part]
        target[name] = value
    return made


@pytest.mark.parametrize(("phase", "number"), [("tx", 60_000), ("rx", 66_000), ("userspace", 60_000)])
def test_what_is_presumed_is_named(phase: str, number: int) -> None:
    """It counts, and whoever reads the verdict sees what the share rests on."""
    after = status(ktls=100_500, userspace=10_100, sessions=9, presumed=60_000)
    check = by_name(judge_host(phase, BEFORE, after, POLICY))["share"]
    assert check.detail.endswith(f"; {number} on the host presumed, of its own clients"), check
    assert check.outcome == by_name(judge_host(phase, BEFORE, AFTER, POLICY))["share"].outcome
    assert judging.numbers(judge_host(phase, BEFORE, after, POLICY), 1.0)["presumed"] == number
    assert "presumed" not in judging.numbers(judge_host(phase, BEFORE, AFTER, POLICY), 1.0)
    assert machine.see(phase, BEFORE, after, None).as_dict()["presumed"] == number
    assert "presumed" not in machine.see(phase, BEFORE, AFTER, None).as_dict()
    assert "presumed" not in by_name(judge_host("tx", BEFORE, AFTER, POLICY))["share"].detail
    old = changed(after, evidence__total__presumed=None)  # of an agent that knows of none
    assert "presumed" not in by_name(judge_host("tx", BEFORE, old, POLICY))["share"].detail
    begun_anew = changed(after, evidence__since_s=2.0)
    assert moved.presumed("ktls_tx", BEFORE, begun_anew) == 0


def test_a_healthy_nginx_passes_by_what_the_kernel_saw_of_its_unit() -> None:
    verdict = judge_host("tx", BEFORE, AFTER, POLICY, settled=BEFORE)
    assert verdict.outcome == "pass", verdict.reason
    assert (verdict.bytes_on_path, verdict.bytes_total) == (100_000, 100_100), "and not of the whole host"
    assert by_name(verdict)["receive"].detail == "9 connections receive through kTLS, as tx+rx means"
    assert verdict.evidence["means"] == "tx+rx"


def test_transmit_alone_is_held_to_it() -> None:
    old = {"modes": ["userspace", "tx"]}
    before, after = (changed(one, datapath__modes=old["modes"], phase="tx") for one in (BEFORE, AFTER))
    assert by_name(judge_host("tx", before, after, POLICY, settled=before))["receive"].outcome == "fail"
    assert by_name(judge_host("tx", before, changed(after, phase="tx+rx"), POLICY))["phase"].outcome == "fail"


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"draining": {"processes": 2, "connections": None}}, "2 old processes still serve what they began"),
        ({"draining": {"processes": 1, "connections": 14}}, "1 old process with 14 old connections still serve"),
        ({}, "bytes of before the order are in it"),
    ],
)
def test_a_low_share_is_no_failure_while_the_past_is_in_it(about: dict[str, Any], words: str) -> None:
    after = status(ktls=50_000, userspace=60_000, sessions=9, **about)
    check = by_name(judge_host("tx", BEFORE, after, POLICY))["share"]
    assert check.outcome == "inconclusive" and words in check.detail
    settled = status(ktls=20_000, userspace=30_000, sessions=6)
    assert by_name(judge_host("tx", BEFORE, after, POLICY, settled=settled))["share"].outcome == "fail"


def test_what_nobody_could_attribute_is_neither_a_pass_nor_a_failure() -> None:
    after = status(ktls=100_500, userspace=10_000, sessions=9, lost=5_000)
    check = by_name(judge_host("tx", BEFORE, after, POLICY, settled=BEFORE))["share"]
    assert (check.outcome, check.detail) == (
        "inconclusive", "95.23 % of 105000 bytes by ktls_tx; 5000 of them nobody could attribute",
    )  # fmt: skip
    # Also if all of it had been kTLS, it would be too little.
    worse = status(ktls=100_500, userspace=20_000, sessions=9, lost=5_000)
    assert by_name(judge_host("tx", BEFORE, worse, POLICY, settled=BEFORE))["share"].outcome == "fail"


@pytest.mark.parametrize(
    ("keys", "name", "outcome"),
    [
        ({"sidecar__errors": None}, "errors", "inconclusive"),
        ({"sidecar__errors": {"5xx": 9}}, "errors", "fail"),
        ({"sidecar__pid": 8}, "errors", "fail"),
        ({"sidecar": None}, "errors", "inconclusive"),
        ({"evidence": {"known": False, "problem": "no helper"}}, "share", "inconclusive"),
        ({"evidence__since_s": 99.0}, "share", "inconclusive"),
        ({"probe__sha256_ok": None}, "probe", "inconclusive"),
        ({"probe__sha256_ok": False}, "probe", "fail"),
        ({"probe__ok": False}, "probe", "fail"),
        ({"probe__ktls_tx": False}, "probe", "fail"),
        ({"probe": None}, "probe", "inconclusive"),
        ({"phase": "userspace"}, "phase", "fail"),
        ({"phase": "rx"}, "phase", "fail"),
        ({"sockets": {}}, "receive", "inconclusive"),
        ({"tls_stat": {}}, "kernel", "inconclusive"),
    ],
)
def test_what_is_missing_is_no_pass(keys: dict[str, Any], name: str, outcome: str) -> None:
    verdict = judge_host("tx", BEFORE, changed(AFTER, **keys), POLICY, settled=BEFORE)
    assert by_name(verdict)[name].outcome == outcome, verdict.reason
    assert verdict.outcome == outcome


def test_the_whole_host_is_counted_where_the_agent_tells_of_no_units() -> None:
    def old(sent: int, share: float) -> Status:
        total = {"sent": sent, "ktls_sent_share": share, "received": 0, "ktls_received_share": None}
        return changed(AFTER, evidence={"known": True, "since_s": 1.0, "age_s": 0.0, "total": total})

    assert moved.by_kernel("ktls_tx", old(1000, 0.0), old(3000, 0.5)) == {
        "ktls_tx": 1500, "userspace": 500, "unattributed": 0,
    }  # fmt: skip
    assert moved.by_kernel("ktls_tx", old(3000, 0.5), old(1000, 0.0)) == {}
    assert moved.by_kernel("userspace", old(1000, 0.0), old(3000, 0.5)) == {
        "userspace": 500, "ktls": 1500, "unattributed": 0,
    }  # fmt: skip


def test_without_the_kernels_word_the_datapaths_own_has_to_do() -> None:
    blind = {"evidence": {"known": False}}
    first = changed(BEFORE, **blind, sidecar__bytes={"ktls_tx": 5, "userspace": 5})
    last = changed(AFTER, **blind, sidecar__bytes={"ktls_tx": 105, "userspace": 5})
    assert moved.by_kernel("ktls_tx", first, last) == {"ktls_tx": 100, "userspace": 0}
    assert moved.by_kernel("ktls_tx", first, changed(last, sidecar__pid=9)) == {}
    assert moved.by_kernel("ktls_tx", first, changed(last, sidecar__bytes={"ktls_tx": None})) == {}


def test_an_error_of_nginx_stops_no_soak_at_once_and_a_wrong_phase_does() -> None:
    errors = changed(AFTER, sidecar__errors={"5xx": 5})
    assert machine.see("tx", BEFORE, errors, None).wrong is None, "it may be usual there: the judge says"
    seen = machine.see("tx", BEFORE, changed(errors, phase="userspace"), None)
    assert seen.wrong == "phase: in force: userspace, ordered: tx+rx"
    assert "restarted" in str(machine.see("tx", BEFORE, changed(AFTER, sidecar__pid=8), None).wrong)
    later = machine.see("tx", BEFORE, changed(AFTER, sidecar__pid=8), None, soaking=False)
    assert later.wrong is None, "its owner may restart it once its wave is promoted"
    counted = machine.see("tx", BEFORE, AFTER, None)
    assert (counted.sent, counted.ktls, counted.connections) == (100_100, 100_000, 4)
    silent = machine.see("tx", BEFORE, changed(AFTER, sidecar__connections_total=None), None)
    assert silent.connections is None and silent.sent == 100_100
