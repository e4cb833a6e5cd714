# SPDX-License-Identifier: Apache-2.0
"""Reading ``ss -tie`` and ``tls_stat`` of a real host."""

from __future__ import annotations

from ktls_control.witness import parse

# ss of iproute2 6.15 on Debian 13 while three downloads ran.
RECORDED = """\
0 0 [::ffff:10.0.2.15]:8443 [::ffff:10.0.2.2]:51312 uid:998 ino:5412 sk:1001 <->
\t cubic wscale:7,7 rto:204 tcp-ulp-tls version: 1.3 cipher: aes-gcm-256 rxconf: none txconf: sw
0 0 [::ffff:10.0.2.15]:8443 [::ffff:10.0.2.2]:51314 uid:998 ino:5413 sk:1002 <->
\t cubic wscale:7,7 rto:204 tcp-ulp-tls version: 1.2 cipher: aes-gcm-128 rxconf: sw txconf: sw
0 0 [::ffff:10.0.2.15]:8443 [::ffff:10.0.2.2]:51316 uid:998 ino:5414 sk:1003 <->
\t cubic wscale:7,7 rto:204 rtt:0.1/0.05
--- tls_stat ---
TlsCurrTxSw                     \t2
TlsTxSw                         \t17
TlsDecryptError                 \t0
nonsense
"""


def test_counts_by_direction() -> None:
    witness = parse(RECORDED)
    assert (witness.ktls_tx, witness.ktls_rx, witness.others) == (2, 1, 1)
    assert witness.tls_stat == {"TlsCurrTxSw": 2, "TlsTxSw": 17, "TlsDecryptError": 0}


def test_one_line_records_of_ss_without_line_breaks() -> None:
    text = "0 0 a:8443 b:1 tcp-ulp-tls version: 1.3 rxconf: none txconf: sw\n0 0 a:8443 b:2 cubic\n--- tls_stat ---\n"
    witness = parse(text)
    assert (witness.ktls_tx, witness.others, witness.tls_stat) == (1, 1, {})


def test_no_connections() -> None:
    assert parse("--- tls_stat ---\nTlsCurrTxSw 0\n").others == 0
