# SPDX-License-Identifier: Apache-2.0
"""What becomes of a snapshot, a status object and the sidecar's counts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ktls_agent.evidence.model import Snapshot
from ktls_agent.metrics.catalogue import CATALOGUE, METRICS, OWN, family
from ktls_agent.metrics.families import collect
from ktls_agent.metrics.family import Sample
from ktls_agent.metrics.text import unite

from .example import AES, BOTH, NOW_S, PLAIN, SNAPSHOT, USE, row, status

Series = dict[str, dict[tuple[str, ...], float]]


def series(snapshot: Snapshot | None = SNAPSHOT, **changes: Any) -> Series:
    """Values by metric and by the values of its labels, in the order of the catalogue."""
    united, faults = unite(collect(status(**changes), snapshot, USE, {"metrics": True, "x": False}, NOW_S))
    assert faults == []
    return {
        f.name: {tuple(s.labels[name] for name in CATALOGUE[f.name].labels): s.value for s in f.samples}
        for f in united
        if f.samples
    }


def test_bytes_count_by_the_mode_of_their_own_direction() -> None:
    found = series()["ktls_bytes_total"]
    who = ("8443", "ktls-sidecar")
    assert found[(*who, "TLSv1.3", AES, "ktls", "sent")] == 9000
    assert found[(*who, "TLSv1.3", AES, "userspace", "received")] == 300
    assert found[(*who, "TLSv1.2", AES, "ktls", "received")] == 200
    assert found[(*who, "unknown", "unknown", "userspace", "sent")] == 500
    assert sum(found.values()) == sum(v.sent + v.received for v in SNAPSHOT.volumes.values()), "no byte is lost"
    assert series()["ktls_unattributed_bytes_total"] == {("sent",): 12, ("received",): 3}
    assert series()["ktls_inferred_bytes_total"] == {("sent",): 700, ("received",): 70}
    assert series()["ktls_presumed_bytes_total"] == {("sent",): 50, ("received",): 5}


def test_kinds_that_differ_only_where_bytes_do_not_are_added() -> None:
    hw = replace(BOTH, rx="none")
    found = series(replace(SNAPSHOT, volumes={BOTH: SNAPSHOT.volumes[BOTH], hw: SNAPSHOT.volumes[BOTH]}))
    assert found["ktls_bytes_total"][("8443", "ktls-sidecar", "TLSv1.2", AES, "ktls", "sent")] == 1000


def test_connections_keep_every_mode_apart() -> None:
    found = series()["ktls_connections"]
    assert found[("8443", "ktls-sidecar", "TLSv1.2", AES, "hw", "sw")] == 2
    assert found[("8443", "ktls-sidecar", "unknown", "unknown", "none", "none")] == SNAPSHOT.connections[PLAIN]


def test_gauges_of_tls_stat_are_no_counters() -> None:
    found = series()
    assert found["ktls_tls_stat_current"] == {("TlsCurrTxSw", "host"): 2, ("TlsCurrTxSw", "4026532"): 0}
    assert found["ktls_tls_stat_total"]["TlsDecryptError", "host"] == 1
    assert found["ktls_tls_stat_total"]["TlsTxSw", "4026532"] == 5


def test_offload_is_a_funnel_over_all_namespaces() -> None:
    found = series()["ktls_offload_contexts_total"]
    assert found == {
        ("sent", "kernel"): 105, ("sent", "device"): 10, ("sent", "driver"): 9,
        ("received", "kernel"): 10, ("received", "device"): 3,
    }  # fmt: skip


def test_without_evidence_the_agent_shows_what_it_has() -> None:
    found = series(None)
    assert found["ktls_tls_stat_total"] == {("TlsTxSw", "host"): 4}
    assert "ktls_bytes_total" not in found, "what was not counted is not zero"
    assert "ktls_evidence_age_seconds" not in found
    assert found["ktls_sidecar_bytes_total"]
    assert "ktls_tls_stat_total" not in series(None, tls_stat_available=False, tls_stat={})


def test_activation_counts_what_was_wanted_and_what_was_had() -> None:
    found = series()
    tls13, tls12 = ("TLSv1.3", "TLS_AES_128_GCM_SHA256"), ("TLSv1.2", "TLS_AES_128_GCM_SHA256")
    whole = {("sent", *tls12): 5, ("received", *tls12): 5}
    assert found["ktls_activation_attempted_total"] == {("sent", *tls13): 100, **whole}
    assert found["ktls_activation_active_total"] == {("sent", *tls13): 90, **whole}
    half = status()["sidecar"]
    half["by"] = [row("rx", "ktls_tx", 4, 0, 0), row("rx", "userspace", 6, 0, 0)]
    active = series(sidecar=half)["ktls_activation_active_total"]
    assert active == {("sent", *tls13): 4, ("received", *tls13): 0}, "never active is a zero, not a gap"


def test_a_silent_sidecar_is_down_and_nothing_is_observed() -> None:
    found = series(sidecar=None, sidecar_error="gone", phase="userspace")
    assert found["ktls_sidecar_up"] == {(): 0}
    assert "ktls_sidecar_connections" not in found
    assert "ktls_drift" not in found
    assert [key for key, value in found["ktls_phase"].items() if value] == [("tx", "ordered")]
    starting = {**status()["sidecar"], "health": "starting"}
    assert series(sidecar=starting)["ktls_sidecar_up"] == {(): 0}


@pytest.mark.parametrize(
    ("changes", "ordered", "drift"),
    [
        ({}, "tx", 0),
        ({"order": "pending"}, "tx", 0),
        ({"phase": "userspace"}, "tx", 1),
        ({"order": "reverted"}, "userspace", 1),
        ({"order": "reverted", "phase": "userspace"}, "userspace", 0),
        ({"order": "stuck"}, "userspace", 1),
        ({"off": {"flag": True, "age_s": 1.0, "reason": None}}, "userspace", 1),
        ({"order": "none", "order_id": None, "ordered_phase": None, "phase": "userspace"}, "userspace", 0),
    ],
)
def test_drift(changes: dict[str, Any], ordered: str, drift: int) -> None:
    found = series(**changes)
    assert found["ktls_drift"] == {(): drift}
    assert [phase for (phase, of), value in found["ktls_phase"].items() if value and of == "ordered"] == [ordered]


def test_states_are_one_hot_and_a_new_one_is_not_lost() -> None:
    for state in ("none", "pending", "committed", "reverted", "stuck", "draining"):
        found = series(order=state)["ktls_order_state"]
        assert [key for key, value in found.items() if value] == [(state,)]
        assert {"none", "pending", "committed", "reverted", "stuck"} <= {key[0] for key in found}


def test_what_is_not_known_is_absent() -> None:
    found = series()
    assert "ktls_lease_seconds_left" not in found
    assert "ktls_off_flag_age_seconds" not in found
    assert found["ktls_off_flag"] == {(): 0}
    found = series(lease_left_s=3.5, off={"flag": True, "age_s": 2.0, "reason": "x"}, probe=None, problems=["a", "b"])
    assert found["ktls_lease_seconds_left"] == {(): 3.5}
    assert found["ktls_off_flag_age_seconds"] == {(): 2.0}
    assert found["ktls_problems"] == {(): 2}
    assert "ktls_probe_success" not in found
    unknown = {**status()["probe"], "ktls_tx": None}
    assert "ktls_probe_ktls" not in series(probe=unknown)
    assert series(probe={**unknown, "ktls_rx": False})["ktls_probe_ktls"] == {("received",): 0}
    assert "ktls_lapsed" not in series()
    assert series(lapsed=True)["ktls_lapsed"] == {(): 1}


def test_stuck_is_told_by_the_mark_or_by_the_state() -> None:
    assert [series(order=order)["ktls_stuck"][()] for order in ("stuck", "reverted")] == [1, 0]
    assert [series(order="reverted", stuck=stuck)["ktls_stuck"][()] for stuck in (True, False)] == [1, 0]


def test_a_drain_counts_down() -> None:
    sidecar = status()["sidecar"]
    assert "ktls_sidecar_drain_connections" not in series()
    found = series(sidecar={**sidecar, "drain": {"left": 3, "deadline_left_s": None}})
    assert found["ktls_sidecar_drain_connections"] == {(): 3}
    assert "ktls_sidecar_drain_deadline_seconds" not in found
    found = series(sidecar={**sidecar, "drain": {"left": 3, "deadline_left_s": 2.5}})
    assert found["ktls_sidecar_drain_deadline_seconds"] == {(): 2.5}


def test_the_agent_itself() -> None:
    found = series(audit={"problem": "broken at 7"})
    assert found["ktls_agent_resident_memory_bytes"] == {(): 30 * 2**20}
    assert found["ktls_part_up"] == {("metrics",): 1, ("x",): 0}
    assert found["ktls_evidence_age_seconds"] == {(): 3.0}
    assert found["ktls_audit_ok"] == {(): 0}
    assert found["ktls_build_info"] == {("0.1.0+gabc", "6.12.1", "OpenSSL 3.5.1", "3.13.5"): 1}


def test_the_example_fills_the_whole_catalogue() -> None:
    found = series(
        lease_left_s=1.0, off={"flag": True, "age_s": 2.0, "reason": "x"}, audit={"problem": None},
        sidecar={**status()["sidecar"], "limited": {"age": 1}, "drain": {"left": 1, "deadline_left_s": 2.0}},
        lapsed=False,
    )  # fmt: skip
    assert {metric.name for metric in OWN} - set(found) == {"ktls_exposition_faults"}, "which the collector adds"


def test_the_catalogue_keeps_to_the_conventions() -> None:
    assert len(CATALOGUE) == len(METRICS)
    for metric in METRICS:
        assert metric.name.startswith("ktls_")
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert metric.help.endswith(".")
        assert "\n" not in metric.help
        if metric.unit:
            assert metric.unit in metric.name, "the unit is part of the name"
        assert metric.group


def test_labels_beside_the_catalogue_are_a_mistake_of_ours() -> None:
    with pytest.raises(ValueError, match="ktls_epoch"):
        family("ktls_epoch", [Sample(1, {"x": "y"})])
