# SPDX-License-Identifier: Apache-2.0
"""Reading ``ss -tie`` and ``tls_stat``."""

from __future__ import annotations

from pathlib import Path

from ktls_control.witness import parse

# One connection of the sidecar on tx, as ss -tienH of Debian 13 printed it in the lab.
RECORDED = (Path(__file__).parents[2] / "fixtures" / "control" / "ss-tx.txt").read_text()
STAT = """--- tls_stat ---
TlsCurrTxSw                     \t2
TlsTxSw                         \t17
TlsDecryptError                 \t0
nonsense
"""


def test_a_recorded_connection() -> None:
    witness = parse(RECORDED + STAT)
    assert (witness.ktls_tx, witness.ktls_rx, witness.others) == (1, 0, 0)
    assert witness.tls_stat == {"TlsCurrTxSw": 2, "TlsTxSw": 17, "TlsDecryptError": 0}


def test_counts_by_direction() -> None:
    receives = RECORDED.replace("rxconf: none", "rxconf: sw")
    userspace = RECORDED[: RECORDED.index("tcp-ulp-tls")] + "\n"
    only_attached = RECORDED[: RECORDED.index(" version:")] + "\n"
    witness = parse(RECORDED + receives + userspace + only_attached + STAT)
    assert (witness.ktls_tx, witness.ktls_rx, witness.others) == (2, 1, 2)


def test_one_line_records_of_ss_without_line_breaks() -> None:
    text = "0 0 a:8443 b:1 tcp-ulp-tls version: 1.3 rxconf: none txconf: sw\n0 0 a:8443 b:2 cubic\n--- tls_stat ---\n"
    witness = parse(text)
    assert (witness.ktls_tx, witness.others, witness.tls_stat) == (1, 1, {})


def test_no_connections() -> None:
    assert parse("--- tls_stat ---\nTlsCurrTxSw 0\n").others == 0
