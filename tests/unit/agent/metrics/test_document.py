# SPDX-License-Identifier: Apache-2.0
"""The report as a document, and as a page."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from ktls_agent.evidence.model import Kind, Snapshot, Volume
from ktls_agent.metrics.document import document
from ktls_agent.report import render

from .example import NOW_S, PLAIN, SNAPSHOT, USE, status

WALL_S = USE.started_s + 600


def made(snapshot: Snapshot | None = SNAPSHOT, **changes: Any) -> dict[str, Any]:
    found = document(status(**changes), snapshot, {"metrics": True}, USE, NOW_S, WALL_S)
    assert json.loads(json.dumps(found, allow_nan=False)) == found, "plain JSON"
    return found


def test_shares_by_direction_protocol_and_cipher() -> None:
    shares = made()["shares"]
    sent, received = shares["kernel"]["sent"], shares["kernel"]["received"]
    assert (sent["ktls_bytes"], sent["userspace_bytes"], sent["ktls_ratio"]) == (9500, 500, 9500 / 10012)
    assert (received["ktls_ratio"], received["unattributed_bytes"]) == (200 / 1003, 3)
    assert [(row["protocol"], row["ktls_ratio"]) for row in sent["by"]] == [
        ("TLSv1.2", 1.0), ("TLSv1.3", 1.0), ("unknown", 0.0),
    ]  # fmt: skip
    assert shares["sidecar"]["sent"]["ktls_ratio"] == 0.9
    assert "unattributed_bytes" not in shares["sidecar"]["sent"]


def test_nothing_to_divide_by_is_null() -> None:
    found = made(Snapshot(NOW_S), sidecar=None, sidecar_error="gone")
    assert found["shares"]["kernel"]["sent"]["ktls_ratio"] is None
    assert (found["cpu"], found["activation"], found["shares"]["sidecar"]) == ([], [], None)
    assert found["sidecar"] == {"up": False, "error": "gone"}
    assert found["phase"] == {"ordered": "tx", "observed": None, "drift": None}


def test_cost_is_per_byte_both_ways() -> None:
    busy, idle = made()["cpu"]
    assert busy["bytes"] == 11_000
    assert busy["ns_per_byte"] == pytest.approx(2.5e9 / 11_000)
    assert idle["ns_per_byte"] is None


def test_evidence_is_whole() -> None:
    evidence = made()["evidence"]
    assert evidence["age_s"] == 3.0
    assert sum(row["connections"] for row in evidence["connections"]) == 50
    assert {"port": 8443, "process": "ktls-sidecar", "version": "", "cipher": "", "tx": "none", "rx": "none",
            "sent": 500, "received": 500} in evidence["bytes"]  # fmt: skip
    assert evidence["namespaces"]["host"]["TlsDecryptError"] == 1
    assert evidence["nic"]["eth0"]["tx_tls_ctx"] == 9


def test_parts_tell_their_own() -> None:
    assert made(metrics={"socket": "/m"})["parts"] == {"metrics": {"up": True, "socket": "/m"}}


def test_page_names_what_is_wrong() -> None:
    off = {"flag": True, "age_s": 7300.0, "reason": "drill"}
    probe = {**status()["probe"], "ok": False, "error": "damaged", "ktls_tx": None}
    page = render(made(off=off, probe=probe, phase="tx", problems=["disk full"]))
    for words in (
        "ordered userspace, observed tx, DRIFT",
        "LATCHED for 2.0 h: drill",
        "FAILED: damaged",
        "94.89 %",
        "TlsDecryptError 1",
        "PROBLEM: disk full",
        "30.0 MiB resident",
    ):
        assert words in page
    page = render(made(order="pending", lease_left_s=12.0))
    assert "reverts in 12 s unless confirmed" in page


def test_page_says_of_how_much_a_share_is() -> None:
    huge = replace(SNAPSHOT, unattributed=Volume(30_000, 0))
    (line,) = [line for line in render(made(huge)).splitlines() if "kernel" in line and "sent" in line]
    assert line.split()[2:] == ["all", "23.75", "%", "39.1", "KiB", "29.3", "KiB"], "the unattributed are of the whole"


def test_page_without_evidence_says_so() -> None:
    page = render(made(None, sidecar=None, sidecar_error="gone", probe=None))
    assert "Kernel: no evidence yet" in page
    assert "Sidecar NOT SERVING: gone" in page
    assert "Errors: none" not in page, "who does not answer has not said that there were none"


def test_a_long_table_is_cut() -> None:
    many: dict[Kind, int] = {replace(PLAIN, port=port): port for port in range(1, 31)}
    page = render(made(replace(SNAPSHOT, connections=many)))
    assert "and 10 more: see --json" in page
    assert max(len(line) for line in page.splitlines()) < 120
