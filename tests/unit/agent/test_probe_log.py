# SPDX-License-Identifier: Apache-2.0
"""Counts and histograms of self-probes."""

from __future__ import annotations

from ktls_agent.probe import FAILURES, ProbeResult, Timings
from ktls_agent.probe_log import BUCKETS_S, ProbeLog


def good(tx: bool | None = True, handshake_s: float = 0.002, transfer_s: float = 0.01) -> ProbeResult:
    return ProbeResult(True, 5.0, ktls_tx=tx, timings=Timings(0.0001, handshake_s, 0.001, transfer_s))


def bad(failure: str) -> ProbeResult:
    return ProbeResult(False, 6.0, error="it failed", failure=failure)


def test_rows_of_failures_and_what_interrupts_them() -> None:
    log = ProbeLog()
    log.note(good())
    for failure in ("timeout", "connect", "busy", "refused", "certificate", "answer"):
        log.note(bad(failure))
    tally = log.tally()
    assert (tally.good, tally.failed, tally.failed_in_row, tally.damaged) == (1, 2, 2, 0), "connect is not kTLS's"
    log.note(bad("content"))
    log.note(bad("record"))
    assert (log.tally().failed_in_row, log.tally().damaged) == (4, 2)
    log.note(ProbeResult(True, 7.0, failure="kernel_view", error="not seen"))
    assert (log.tally().failed_in_row, log.tally().damaged, log.tally().good) == (0, 2, 2)


def test_histograms_are_cumulative_and_by_path() -> None:
    log = ProbeLog()
    log.note(good(True, handshake_s=0.001, transfer_s=99.0))
    log.note(good(False, handshake_s=0.0011))
    log.note(bad("handshake"))
    total, handshake, transfer = log.families()
    assert {sample.labels["result"] for sample in total.samples} == {"ok", *FAILURES}
    assert sum(sample.value for sample in total.samples) == 3

    def line(samples: object, path: str, suffix: str) -> list[float]:
        assert isinstance(samples, tuple)
        return [s.value for s in samples if s.labels["path"] == path and s.suffix == suffix]

    assert line(handshake.samples, "ktls", "_bucket") == [1.0] * (len(BUCKETS_S) + 1), "a bound is inside its bucket"
    assert line(handshake.samples, "userspace", "_bucket")[:2] == [0.0, 1.0]
    assert line(transfer.samples, "ktls", "_bucket")[-2:] == [0.0, 1.0], "only +Inf holds it"
    assert line(transfer.samples, "ktls", "_sum") == [99.0]
    assert line(transfer.samples, "unknown", "_count") == [0.0], "a family has all of its series from the start"
