# SPDX-License-Identifier: Apache-2.0
"""Snapshots made small, and the cost of each phase."""

from __future__ import annotations

import json

from ktls_agent.doctor.digest import History, digest
from ktls_agent.evidence.model import Kind, ProcessUse, Snapshot, Volume
from ktls_host.jsonsock import MAX_LINE

WEB = Kind(443, "ktls-sidecar", "TLSv1.3", "TLS_AES_128_GCM_SHA256", "sw", "none")


def snapshot(at_s: float, sent: int, cpu_s: float) -> Snapshot:
    return Snapshot(at_s, volumes={WEB: Volume(sent)}, processes=(ProcessUse("ktls-sidecar", 2, cpu_s),))


def test_the_largest_host_fits_one_line_twice() -> None:
    kinds = [Kind(port, f"service-{port}" * 9, "TLSv1.3", "C" * 90, "sw", "sw") for port in range(3000)]
    nic = {f"eth{n}": {f"{d}{m}_tls_x{n}": 2**63 for d in ("tx", "rx") for m in range(300)} for n in range(9)}
    for counters in nic.values():
        counters.update({f"tx_tls_{n}": 2**63 for n in range(90)})
    huge = Snapshot(
        1.0,
        namespaces={str(n): {f"Tls{m}": 2**63 for m in range(17)} for n in range(99)},
        connections=dict.fromkeys(kinds, 2**40),
        volumes=dict.fromkeys(kinds, Volume(2**63, 2**63)),
        processes=tuple(ProcessUse(f"p{n}" * 99, 9, 1e12) for n in range(999)),
        nic=nic,
        kernel_warning="w" * 9999,
    )
    history = History()
    history.take(huge, "tx")
    assert len(json.dumps(history.as_dict())) < MAX_LINE * 0.4
    small = digest(huge)
    assert len(small["kinds"]) == 25
    assert not any(name.startswith(("tx0_", "rx0_")) for counters in small["nic"].values() for name in counters)
    assert small["tls_stat"]["Tls3"] == 99 * 2**63


def test_cost_is_by_phase_and_the_change_counts_for_neither() -> None:
    history = History()
    for at, sent, cpu, phase in (
        (0.0, 1000, 50.0, "userspace"),
        (10.0, 2000, 60.0, "userspace"),
        (20.0, 9000, 99.0, "tx"),
        (30.0, 9500, 100.0, "tx"),
        (30.0, 99999, 999.0, "tx"),
        (40.0, 9600, 90.0, "tx"),
    ):
        history.take(snapshot(at, sent, cpu), phase)
    cost = history.as_dict()["cost"]
    assert cost == {
        "userspace": {"cpu_s": 10.0, "sent": 1000.0, "seconds": 10.0},
        "tx": {"cpu_s": 1.0, "sent": 600.0, "seconds": 20.0},
    }
    assert (history.as_dict()["start"]["at_s"], history.as_dict()["now"]["at_s"]) == (20.0, 40.0)


def test_empty_is_empty() -> None:
    assert History().as_dict() == {"start": None, "now": None, "cost": {}}
