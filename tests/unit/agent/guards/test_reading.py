# SPDX-License-Identifier: Apache-2.0
"""Readings: growth by source, and nothing that a reset makes look like an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.evidence.model import Kind, Snapshot, Volume
from ktls_agent.guards.model import KERNEL, LOG, PROBE, SIDECAR
from ktls_agent.guards.reading import Reader, Totals
from ktls_agent.guards.rules import ABSENT, RULES, Watcher
from ktls_agent.probe_log import Tally


def snapshot(at_s: float, **namespaces: int) -> Snapshot:
    counters = {name: {"TlsDecryptError": value, "TlsCurrTxSw": 5} for name, value in namespaces.items()}
    return Snapshot(at_s, namespaces=counters)


def decrypt_errors(reader: Reader, at_s: float = 0.0) -> float:
    return reader.read(at_s).values["TlsDecryptError"]


def test_growth_is_taken_by_namespace() -> None:
    reader = Reader()
    reader.snapshot(snapshot(1, host=100, n1=7))
    assert decrypt_errors(reader) == 0, "what was before us is not news"
    reader.snapshot(snapshot(2, host=103, n1=7))
    assert decrypt_errors(reader) == 3
    reader.snapshot(snapshot(3, host=103))
    reader.snapshot(snapshot(4, host=103, n2=50))
    assert decrypt_errors(reader) == 3, "a namespace that goes or comes is no error"
    reader.snapshot(snapshot(5, host=2, n2=50))
    assert decrypt_errors(reader) == 5, "the module was loaded again: two since then"
    reader.snapshot(snapshot(5, host=90, n2=50))
    assert decrypt_errors(reader) == 5, "a snapshot that was taken already says nothing new"
    assert "TlsCurrTxSw" not in reader.read(0).values, "a gauge has no growth"


@dataclass(frozen=True)
class Observed(Snapshot):
    """A snapshot that says when its observer started."""

    since_s: float = 0.0


def test_an_observer_that_restarted_counts_anew() -> None:
    reader = Reader()
    for at_s, since_s, warnings in ((1.0, 0.5, 4), (2.0, 0.5, 4), (3.0, 2.5, 5)):
        reader.snapshot(Observed(at_s, kernel_warnings=warnings, since_s=since_s))
    assert reader.read(3).values["kernel_warnings"] == 5


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 50), st.booleans()), max_size=60))
def test_totals_never_fall_and_never_exceed_what_was_shown(moves: list[tuple[str, int, bool]]) -> None:
    totals, before, shown = Totals(), 0.0, 0
    for source, value, fresh in moves:
        totals.add(source, {"n": value}, fresh=fresh)
        shown += value
        now = totals.reading(0.0).values["n"]
        assert before <= now <= shown
        before = now


def sidecar(pid: int = 1, errors: dict[str, int] | None = None, **rows: Any) -> dict[str, Any]:
    by = [
        {"assigned": "tx", "path": "ktls_tx", "bytes_total": rows.get("ktls", 0), "connections_total": 1},
        {"assigned": "tx", "path": "userspace", "bytes_total": rows.get("fallback", 0), "connections_total": 1},
        {"assigned": "userspace", "path": "userspace", "bytes_total": rows.get("old", 0), "connections_total": 1},
    ]
    return {"pid": pid, "errors": errors or {}, "by": by}


def test_sidecar_counts_what_was_ordered_only() -> None:
    reader = Reader()
    reader.sidecar(sidecar(errors={"bad_record_mac": 4}, ktls=10, fallback=5, old=1000), 1)
    reader.sidecar(sidecar(errors={"bad_record_mac": 6, "key_expired": 1}, ktls=40, fallback=6, old=5000), 2)
    values = reader.read(2).values
    assert (values["ordered_ktls_bytes"], values["ordered_fallback_bytes"]) == (30, 1)
    assert (values["sidecar_bad_record"], values["sidecar_key_expired"], values["sidecar_too_big"]) == (2, 1, 0)


def test_a_sidecar_that_restarted_counts_anew() -> None:
    reader = Reader()
    reader.sidecar(sidecar(errors={"too_big": 100}), 1)
    reader.sidecar(sidecar(pid=2, errors={"too_big": 120}), 2)
    assert reader.read(2).values["sidecar_too_big"] == 120
    reader.sidecar(sidecar(pid=2, errors={"too_big": 3}), 3)
    assert reader.read(2).values["sidecar_too_big"] == 123, "the counters fell, whatever the pid says"


def test_nonsense_from_the_sidecar_is_nothing() -> None:
    reader = Reader()
    reader.sidecar({"errors": ["x"], "by": [None, {"assigned": "tx", "bytes_total": "many"}], "pid": None}, 1)
    reader.sidecar({"errors": {"too_big": True}, "by": None}, 2)
    assert reader.read(2).values["sidecar_too_big"] == 0


def test_seen_is_by_group() -> None:
    reader = Reader()
    assert reader.read(9).seen_s == {}
    reader.snapshot(Snapshot(5.0))
    assert reader.read(9).seen_s == {LOG: 5.0}, "no counters, no view of the kernel"
    reader.snapshot(snapshot(6.0, host=1))
    reader.sidecar(sidecar(), 7.0)
    reader.probe(Tally())
    reader.probe(Tally(8.0, good=1))
    assert reader.read(9).seen_s == {LOG: 6.0, KERNEL: 6.0, SIDECAR: 7.0, PROBE: 8.0}


def test_volumes_by_transmit_mode() -> None:
    reader = Reader()
    kinds = [Kind(443, "nginx", "", "", tx, "none") for tx in ("none", "sw", "hw")]
    reader.snapshot(Snapshot(1.0, volumes=dict.fromkeys(kinds, Volume(10))))
    reader.snapshot(Snapshot(2.0, volumes=dict.fromkeys(kinds, Volume(15))))
    values = reader.read(2).values
    assert (values["kernel_userspace_bytes"], values["kernel_ktls_bytes"]) == (5, 10)


def test_what_nobody_counts_is_absent_and_not_zero() -> None:
    """A service that is not ours: its rules have nothing to look at, and are neither blind nor content."""
    reader = Reader()
    for at_s in (1.0, 2.0):
        reader.sidecar({"mode": "tx", "effective_mode": "tx+rx", "pid": 5}, at_s)
    reading = reader.read(2.0)
    assert reading.seen_s[SIDECAR] == 2.0
    assert not [name for name in reading.values if name.startswith("sidecar_")]
    (rule,) = (rule for rule in RULES if rule.name == "bad_record")
    watch = Watcher(rule, rule.default)
    assert watch.look(reading) is None
    assert watch.judgement.state == ABSENT
