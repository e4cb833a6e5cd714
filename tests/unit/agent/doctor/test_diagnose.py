# SPDX-License-Identifier: Apache-2.0
"""Hosts with one known illness each: the doctor names that one, with its numbers, and no other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.doctor.diagnose import as_dict, diagnose, ill, text, unseen
from ktls_agent.doctor.model import LIKELIHOODS, SYMPTOMS, Evidence, Finding

from .statuses import BACKPORTS, GIB, HEALTHY, REKEY, STATS, digest, host, kind, row, sidecar, status


def causes(evidence: Evidence) -> dict[str, str]:
    """What was found, by code, but for what was ruled out."""
    return {f.code: f.likelihood for f in diagnose(evidence) if f.likelihood != "ruled out"}


def ruled_out(evidence: Evidence) -> set[str]:
    return {f.code for f in diagnose(evidence) if f.likelihood == "ruled out"}


def one(evidence: Evidence, code: str) -> Finding:
    (found,) = [f for f in diagnose(evidence) if f.code == code]
    return found


def test_a_healthy_host_has_nothing() -> None:
    assert causes(HEALTHY) == {}
    assert not ill(diagnose(HEALTHY))
    assert unseen(HEALTHY) == []
    assert {
        "module_missing", "not_ordered", "fallbacks", "old_connections", "small_files", "userspace_share",
        "cpu_not_lower", "key_update", "key_expired", "too_big", "control_record", "bad_record", "limits",
        "none_in_hardware",
    } <= ruled_out(HEALTHY)  # fmt: skip


def test_a_new_kernel_is_healthy_too() -> None:
    kernel, openssl = BACKPORTS
    evidence = host(kernel=kernel, openssl=openssl, stats={**STATS, **REKEY})
    assert causes(evidence) == {}
    assert "rekey_error" in ruled_out(evidence)


hw: dict[str, Any] = {"version": "TLSv1.2", "cipher": "ECDHE-ECDSA-AES128-GCM-SHA256", "tx": "hw"}
nic = {"tx_tls_encrypted_bytes": 0, "tx_tls_encrypted_packets": 0, "tx_tls_ooo": 0, "tx_tls_drop_no_sync_data": 0}
HW_STATS = {**STATS, "TlsCurrTxDevice": 4, "TlsTxDevice": 90}


def offloaded(moved: dict[str, int], *more: dict[str, Any], stats: dict[str, int] | None = None) -> Evidence:
    return host(
        status=status(phase="hw"),
        stats={**HW_STATS, **(stats or {})},
        start=digest(kind(sent=0, **hw), nic=nic),
        now=digest(kind(sent=9 * GIB, **hw), *more, nic={**nic, **moved}),
    )


def flapped(deleted: int, told: int | None = None) -> Evidence:
    """The link went down: contexts of the driver are gone, what the kernel says has not changed."""
    evidence = offloaded({"tx_tls_encrypted_bytes": 2 * GIB, "tx_tls_ctx": 90, "tx_tls_del": 86 + deleted})
    now = {**(evidence.now or {}), "tls_stat": {"TlsCurrTxDevice": 4}}
    shown = {} if told is None else {"hw": {"open": {"hw": 4, "stale": told}}}
    return replace(evidence, now=now, status={**(evidence.status or {}), **shown})


def test_the_agent_has_followed_it_and_knows_better_than_one_look() -> None:
    assert "stale_hw" not in causes(flapped(4, told=0))
    assert "stale_hw" not in causes(flapped(0))


working = {"tx_tls_encrypted_bytes": 9 * GIB, "tx_tls_encrypted_packets": 10**6}


def test_hardware_that_works_is_healthy() -> None:
    assert causes(offloaded(working)) == {}
    assert {"stale_hw", "table_full", "resync", "dropped"} <= ruled_out(offloaded(working))


@pytest.mark.parametrize(
    ("evidence", "code", "likelihood", "said"),
    [
        # On, but no gain.
        (host(ulp=False), "module_missing", "confirmed", "module is not loaded"),
        (host(status=status(off="guard decrypt_error: 30")), "off_latched", "confirmed", "guard decrypt_error"),
        (host(status=status("none", "userspace")), "not_ordered", "confirmed", "none"),
        (
            host(status=status("reverted", "tx", revert_reason="lease expired")),
            "not_ordered",
            "confirmed",
            "lease expired",
        ),
        (host(sidecar=sidecar(effective_mode="userspace")), "sidecar_disagrees", "confirmed", "tx is ordered"),
        (
            host(sidecar=sidecar(row(opened=10), row("userspace", opened=90), fallbacks={"cipher:AES-CCM": 90})),
            "fallback_cipher",
            "confirmed",
            "90 of 100",
        ),
        (host(sidecar=sidecar(fallbacks={"max_fragment": 2})), "fallback_max_fragment", "possible", "2 of 400"),
        (host(sidecar=sidecar(fallbacks={"no_tls_ulp": 400})), "fallback_no_tls_ulp", "confirmed", "not loaded"),
        (host(sidecar=sidecar(fallbacks={"version": 100})), "fallback_version", "confirmed", "protocol version"),
        (host(sidecar=sidecar(fallbacks={"ulp_ENOENT": 1})), "fallback_ulp_ENOENT", "possible", "ENOENT"),
        (host(sidecar=sidecar(fallbacks={"other": 1})), "fallback_other", "possible", "reason other"),
        (
            host(sidecar=sidecar(row(), {**row("userspace", opened=9), "cipher": "C"}, fallbacks={"other": 9})),
            "cipher_not_in_kernel",
            "confirmed",
            "none of 9 connections with TLSv1.3 C went to the kernel; 400 with other ciphers did",
        ),
        (host(sidecar=sidecar(share=0.5)), "share", "confirmed", "50 %"),
        (
            host(sidecar=sidecar(row(now=2), row("userspace", "userspace", now=8))),
            "old_connections",
            "likely",
            "8 of 10 open connections",
        ),
        (host(sidecar=sidecar(row(sent=400 * 20_000))), "small_files", "likely", "19.5 KiB on average over 400"),
        (host(sidecar=sidecar(row(sent=400 * 500_000))), "small_files", "possible", "488.3 KiB"),
        (
            host(now=digest(kind(sent=40 * GIB), kind("none", sent=GIB, process="node", version="", cipher=""))),
            "memory_bios",
            "likely",
            "node sent 1.0 GiB",
        ),
        (
            host(now=digest(kind(sent=GIB), kind("none", sent=GIB, version="", cipher=""))),
            "userspace_share",
            "likely",
            "50.0 % of 2.0 GiB",
        ),
        (
            host(cost={**HEALTHY.cost, "tx": {"cpu_s": 41.0, "sent": 40.0 * GIB, "seconds": 9.0}}),
            "cpu_not_lower",
            "confirmed",
            "1.02 s of CPU for a GiB by kTLS, 1.00 s in userspace",
        ),
        # Reads that fail.
        (
            host(sidecar=sidecar(errors={"key_update": 7}, fallbacks={"peer": 30})),
            "key_update",
            "confirmed",
            "7 of 400 kTLS connections ended because the client changed its keys; kernel 6.12 and OpenSSL 3.5 cannot",
        ),
        (host(sidecar=sidecar(errors={"key_expired": 2})), "key_expired", "confirmed", "2 connections ended on EKEY"),
        (host(sidecar=sidecar(errors={"emsgsize": 1})), "too_big", "confirmed", "EMSGSIZE"),
        (host(sidecar=sidecar(errors={"eio": 1})), "control_record", "confirmed", "EIO"),
        (host(sidecar=sidecar(errors={"bad_record_mac": 40})), "bad_record", "likely", "40 of 400"),
        (host(stats={**STATS, "TlsDecryptError": 3}), "bad_record", "possible", "TlsDecryptError is 3"),
        (host(stats={**STATS, **REKEY, "TlsTxRekeyError": 2}), "rekey_error", "confirmed", "2 of 8 changes"),
        (host(sidecar=sidecar(limited={"age": 12})), "limits", "confirmed", "12 kTLS connections by age"),
        (host(sidecar=sidecar(errors={"worker_died": 1})), "worker_died", "likely", "1 workers"),
        (host(sidecar=sidecar(errors={"sendfile_failed": 4})), "send_faults", "possible", "4 sendfile_failed"),
        (
            host(now=digest(kind(sent=40 * GIB), kind("sw", sent=1, process="nginx", rx="sw"))),
            "key_update_elsewhere",
            "likely",
            "nginx uses kTLS (receive: sw)",
        ),
        (
            host(
                kernel=BACKPORTS[0], now=digest(kind(sent=40 * GIB), kind("sw", sent=1, process="nginx", rx="sw"))
            ),
            "control_record_elsewhere",
            "possible",
            "issue 651",
        ),
        (
            host(status=status(phase="rx"), sidecar=sidecar(openssl="OpenSSL 3.2.0 1 Jan 2024")),
            "known_release",
            "likely",
            "data length too long",
        ),
        # Hardware.
        (host(status=status(phase="hw")), "none_in_hardware", "confirmed", "no connection ever went to the card"),
        (offloaded({}), "stale_hw", "confirmed", "sent 9.0 GiB; the cards' counters moved by 0"),
        (flapped(4), "stale_hw", "confirmed", "4 of 4 open connections that the kernel calls hw have no card"),
        (flapped(4), "stale_hw", "confirmed", "the drivers hold 0 contexts"),
        (flapped(4), "stale_hw", "confirmed", "sent 9.0 GiB since the order while cards encrypted 2.0 GiB"),
        (flapped(3, told=3), "stale_hw", "confirmed", "3 of 4 open connections"),
        (
            offloaded(working, kind("sw", sent=1, version="TLSv1.3", connections=12)),
            "tls13_not_offloaded",
            "confirmed",
            "12 of 16",
        ),
        (
            offloaded(working, kind("sw", version="TLSv1.2", cipher=hw["cipher"], connections=3)),
            "table_full",
            "likely",
            "3 connections",
        ),
        (offloaded({**working, "tx_tls_ooo": 50_000}), "resync", "likely", "50000 of 1000000 packets"),
        (offloaded(working, stats={"TlsRxDeviceResync": 400}), "resync", "likely", "400 resyncs"),
        (offloaded({**working, "tx_tls_drop_no_sync_data": 5}), "dropped", "confirmed", "tx_tls_drop_no_sync_data 5"),
    ],
)  # fmt: skip
def test_an_illness_is_named_with_its_numbers(evidence: Evidence, code: str, likelihood: str, said: str) -> None:
    found = one(evidence, code)
    assert found.likelihood == likelihood
    assert said in found.what
    assert found.run
    assert found.cure
    assert ill(diagnose(evidence)) is (likelihood in ("confirmed", "likely"))
    # What follows from it may be named too; but a symptom that it does not touch stays clean.
    others = {f.symptom for f in diagnose(evidence) if f.likelihood in ("confirmed", "likely")}
    assert others <= {found.symptom} | ({"no_gain"} if found.symptom == "hardware" else set())


@pytest.mark.parametrize("part", ["status", "sidecar", "stats", "start", "now"])
def test_each_part_may_be_missing(part: str) -> None:
    evidence = host(**{part: None}, unseen=(f"no {part}",))
    findings = diagnose(evidence)
    assert not ill(findings), [f for f in findings if f.likelihood in ("confirmed", "likely")]
    assert f"no {part}" in text("web1", evidence, findings)


def test_nothing_at_all_is_no_diagnosis_and_no_crash() -> None:
    evidence = Evidence("", "")
    assert diagnose(evidence) == []
    assert text("web1", evidence, []).count("nothing could be seen") == 3


def test_what_is_not_known_is_not_ruled_out() -> None:
    evidence = host(sidecar=None)
    assert not {"key_update", "bad_record", "key_expired", "fallbacks"} & ruled_out(evidence)
    little = host(cost={"userspace": {"cpu_s": 1.0, "sent": 5.0, "seconds": 1.0}})
    assert "cpu_not_lower" not in {f.code for f in diagnose(little)}
    assert "CPU for each byte" in unseen(little)[0]


def test_one_cause_is_told_once() -> None:
    rows = row(), {**row("userspace", opened=9), "cipher": "C"}
    assert set(causes(host(sidecar=sidecar(*rows, fallbacks={"other": 9})))) == {"cipher_not_in_kernel"}
    assert "fallback_other" in causes(host(sidecar=sidecar(*rows, fallbacks={"other": 10}))), "one is not explained"


def test_nonsense_from_a_sidecar_is_survived() -> None:
    odd = sidecar(errors=["x"], fallbacks=7, by=[None, {"assigned": "tx"}], share="all", limited=None)
    assert isinstance(diagnose(host(sidecar=odd)), list)


def test_words_and_codes_agree() -> None:
    told = (Path(__file__).parents[4] / "docs/diagnostics.md").read_text().partition("\n## What the doctor finds\n")[2]
    table = told.partition("\n## ")[0]
    source = Path(__file__).parents[4] / "agent/ktls_agent/doctor"
    import re

    codes: set[str] = set()
    for path in source.glob("*.py"):
        codes |= set(re.findall(r'_found\(\s*"([a-z0-9_]+)"', path.read_text()))
    codes |= {"key_expired", "too_big", "control_record", "fallback_…"}
    assert codes - set(re.findall(r"`([a-z0-9_…]+)`", table)) == set()


def test_json_is_whole_and_text_is_narrow() -> None:
    evidence = host(sidecar=sidecar(fallbacks={"cipher:" + "X" * 50: 90}))
    findings = diagnose(evidence)
    body = json.loads(json.dumps(as_dict("web1", evidence, findings)))
    assert body["healthy"] is False
    assert {f["symptom"] for f in body["findings"]} <= set(SYMPTOMS)
    assert {f["likelihood"] for f in body["findings"]} <= set(LIKELIHOODS)
    assert max(map(len, text("web1", evidence, findings).splitlines())) <= 120
