# SPDX-License-Identifier: Apache-2.0
"""Guards of phase hw: a card that does not work, connections that it does not take, packets that it drops."""

from __future__ import annotations

from typing import Any

import pytest

from ktls_agent.evidence.model import Kind, Snapshot, Volume
from ktls_agent.guards.model import Reading
from ktls_agent.guards.reading import Reader
from ktls_agent.guards.rules import RULES, Trip, Watch

HW = Kind(8443, "ktls-sidecar", "TLSv1.2", "AES-128-GCM", "hw", "none")
MIB = 1 << 20
NAMES = {rule.name for rule in RULES if rule.phase == "hw"}


def host(minutes: int, phase: str = "hw", **rates: Any) -> list[Trip]:
    """What trips on a host that goes on so, looked at every 10 s. ``rates`` are by 10 s."""
    reader, watch, trips = Reader(), Watch({}), []
    rate = {"sent": 0, "encrypted": None, "eligible": 0, "installed": 0, "packets": 0, "ooo": 0, "drops": 0, **rates}
    for look in range(minutes * 6):
        at = 100.0 + 10 * look
        nic = {"tx_tls_encrypted_packets": rate["packets"] * look, "tx_tls_ooo": rate["ooo"] * look}
        nic["tx_tls_drop_no_sync_data"] = rate["drops"] * look
        if rate["encrypted"] is not None:
            nic["tx_tls_encrypted_bytes"] = rate["encrypted"] * look
        stat = {"TlsTxDevice": rate["installed"] * look, "TlsTxSw": 0, "TlsRxDeviceResync": 0}
        volumes = {HW: Volume(rate["sent"] * look)}
        reader.snapshot(Snapshot(at, namespaces={"host": stat}, volumes=volumes, nic={"sim0": nic}))
        row = {"assigned": "hw", "path": "ktls_tx", "protocol": "TLSv1.2", "cipher": "ECDHE-RSA-AES128-GCM-SHA256"}
        rows = [{**row, "connections_total": rate["eligible"] * look, "bytes_total": rate["sent"] * look}]
        reader.sidecar({"pid": 1, "by": rows}, at)
        trips += watch.look(reader.read(at), phase)
    return trips


def named(trips: list[Trip]) -> set[str]:
    return {trip.rule.name for trip in trips}


def test_a_card_that_works_trips_nothing() -> None:
    rates: dict[str, Any] = {
        "sent": 100 * MIB,
        "encrypted": 101 * MIB,
        "eligible": 30,
        "installed": 30,
        "packets": 70_000,
        "ooo": 70,
    }
    assert host(10, **rates) == []


def test_bytes_that_no_card_encrypts_trip_after_two_windows() -> None:
    trips = host(5, sent=100 * MIB, encrypted=0)
    assert named(trips) == {"hw_frozen"}
    assert trips[0].at_s >= 100 + 60
    assert "no card encrypted" in trips[0].detail
    assert "100.0 % of their bytes" in trips[0].detail
    assert host(1, sent=100 * MIB, encrypted=0) == [], "one burst is no state"


def test_a_tenth_that_goes_by_software_is_no_reason() -> None:
    assert host(5, sent=100 * MIB, encrypted=90 * MIB) == []


def test_a_driver_that_counts_no_bytes_has_no_such_rule() -> None:
    assert host(5, sent=100 * MIB) == []


def test_connections_that_a_card_does_not_take() -> None:
    assert named(host(6, eligible=30, installed=10)) == {"hw_fallback"}
    assert host(6, eligible=30, installed=20) == []
    assert host(6, eligible=5, installed=0) == [], "a few, as those of the self-probe, which no card sees"


def test_packets_that_are_dropped_or_out_of_order() -> None:
    assert named(host(6, packets=50_000, drops=100)) == {"hw_drops"}
    assert named(host(6, packets=50_000, ooo=10_000)) == {"hw_resync"}
    assert host(6, packets=500_000, drops=10, ooo=100) == []


@pytest.mark.parametrize("phase", ["userspace", "tx", "rx"])
def test_they_rest_in_other_phases_and_are_not_blind(phase: str) -> None:
    rates: dict[str, Any] = {
        "sent": 100 * MIB,
        "encrypted": 0,
        "eligible": 30,
        "packets": 50_000,
        "drops": 5000,
        "ooo": 40_000,
    }
    assert host(6, phase, **rates) == []
    watch = Watch({})
    watch.look(Reading(1.0), phase)
    assert {w.rule.name for w in watch.watchers if w.judgement.state == "absent"} == NAMES
    watch.look(Reading(2.0), "hw")
    assert {w.judgement.state for w in watch.watchers if w.rule.name in NAMES} == {"blind"}


def test_counters_of_a_driver_that_was_loaded_again_begin_anew() -> None:
    reader = Reader()
    for at, value in ((1.0, 900), (2.0, 1000), (3.0, 50)):
        reader.snapshot(Snapshot(at, nic={"sim0": {"tx_tls_encrypted_bytes": value}}))
    assert reader.read(3.0).values["nic_encrypted_bytes"] == 150
