# SPDX-License-Identifier: Apache-2.0
"""Key hw of the status: what cards did, what the kernel believes, and where the two part."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.core import Agent
from ktls_agent.evidence.model import Kind, Snapshot, Volume
from ktls_agent.hw.measure import Stale, is_gcm
from ktls_agent.hw.part import HwPart
from ktls_agent.metrics.catalogue import CATALOGUE
from ktls_host.nic.tls_features import TlsCard

from .conftest import Host, order

CARD = TlsCard("eth0", "mlx5_core", True, False, True)
HW = Kind(8443, "ktls-sidecar", "TLSv1.2", "AES-128-GCM", "hw", "none")
SOFT = Kind(8443, "ktls-sidecar", "TLSv1.2", "AES-128-GCM", "sw", "none")
NEW = Kind(8443, "ktls-sidecar", "TLSv1.3", "AES-128-GCM", "sw", "none")
PLAIN = Kind(8443, "ktls-sidecar", "", "", "none", "none")
MIB = 1 << 20


def snapshot(at_s: float, hw: int = 0, open_: int = 0, ctx: int = 0, gone: int = 0, bytes_: int = 0) -> Snapshot:
    nic = {"tx_tls_ctx": ctx, "tx_tls_del": gone, "tx_tls_encrypted_bytes": bytes_, "tx_tls_ooo": 3}
    stat = {"TlsCurrTxDevice": open_, "TlsTxDevice": ctx, "TlsTxSw": 5, "TlsDecryptError": 1}
    return Snapshot(at_s, namespaces={"host": stat}, volumes={HW: Volume(hw)}, nic={"eth0": nic})


def stale(*series: Snapshot) -> list[int]:
    found = Stale()
    numbers = []
    for one in series:
        found.take(one)
        numbers.append(found.number)
    return numbers


def test_a_link_flap_leaves_connections_that_are_called_hw() -> None:
    """As on the rig: the driver's contexts are deleted, the kernel's gauge stays (tls_device_down)."""
    before = snapshot(1, 9 * MIB, open_=3, ctx=3, bytes_=9 * MIB)
    after = snapshot(2, 12 * MIB, open_=3, ctx=3, gone=3, bytes_=10 * MIB)
    assert stale(before, after, replace(after, at_s=3.0)) == [0, 0, 3], "twice in a row: one look may meet an end"
    new = snapshot(4, 15 * MIB, open_=5, ctx=5, gone=3, bytes_=12 * MIB)
    assert stale(after, replace(after, at_s=3.0), new) == [0, 3, 3], "new ones work, the old three do not"
    ended = snapshot(5, 15 * MIB, open_=2, ctx=5, gone=3, bytes_=12 * MIB)
    assert stale(after, new, ended) == [0, 3, 0]


def test_a_route_that_moved_leaves_contexts_in_a_card_that_encrypts_nothing() -> None:
    def at(number: int, hw: int, bytes_: int, open_: int = 4) -> Snapshot:
        return snapshot(float(number), hw * MIB, open_=open_, ctx=4, bytes_=bytes_ * MIB)

    moved = [at(1, 10, 10), at(2, 20, 20), at(3, 30, 20), at(4, 40, 20), at(5, 40, 20)]
    assert stale(*moved) == [0, 0, 0, 4, 4], "also while they are quiet"
    assert stale(*moved, at(6, 50, 29))[-1] == 0, "it is back"
    assert stale(*moved, at(6, 40, 20, open_=0))[-1] == 0, "all have ended"


def test_connections_that_come_and_go_are_not_stale() -> None:
    quiet = [
        snapshot(float(n), n * MIB, open_=2 + n % 2, ctx=10 * n, gone=10 * n - 2, bytes_=n * MIB) for n in range(9)
    ]
    assert max(stale(*quiet)) == 0


@pytest.mark.parametrize(
    ("cipher", "gcm"),
    [
        ("AES-128-GCM", True),
        ("ECDHE-RSA-AES256-GCM-SHA384", True),
        ("ECDHE-RSA-CHACHA20-POLY1305", False),
        ("SM4-GCM", False),
        ("", False),
    ],
)
def test_what_a_card_takes(cipher: str, gcm: bool) -> None:
    assert is_gcm(cipher) is gcm


def play(tmp_path: Path, scenario: Any) -> None:
    async def main() -> None:
        host = Host(tmp_path)
        agent = host.agent()
        await agent.start()
        await scenario(host, agent)
        agent.close()

    asyncio.run(asyncio.wait_for(main(), 20))


def test_a_host_without_such_a_card_has_nothing_to_say(tmp_path: Path) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        part = HwPart(agent, lambda: None, lambda: [TlsCard("sim0", "tlssim", True, False, True)])
        await part.refresh()
        assert part.status() is None, "the lab's device is none, outside of the lab"
        assert list(part.metrics()) == []

    play(tmp_path, scenario)


def test_the_status_has_the_shape_that_others_read(tmp_path: Path) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        newest = snapshot(1.0, 10 * MIB, open_=1, ctx=1, bytes_=9 * MIB)
        part = HwPart(agent, lambda: newest, lambda: [CARD])
        await part.refresh()
        kinds = {HW: 12, SOFT: 3, NEW: 5, PLAIN: 7}
        newest = replace(newest, at_s=2.0, volumes={kind: Volume(number * MIB) for kind, number in kinds.items()})
        part.heard(0.0, {"pid": 1, "by": []}, False)
        row = {"path": "userspace", "protocol": "TLSv1.2", "cipher": "ECDHE-RSA-AES128-GCM-SHA256", "bytes_total": MIB}
        part.heard(1.0, {"pid": 1, "by": [row, {**row, "path": "ktls_tx"}, {**row, "cipher": "X"}]}, False)
        status = part.status()
        assert status == {
            "tls12_consent": False,
            "interfaces": [
                {
                    "name": "eth0",
                    "driver": "mlx5_core",
                    "tx_on": True,
                    "rx_on": False,
                    "up": True,
                    "counters": {"tx_tls_ctx": 1, "tx_tls_del": 0, "tx_tls_encrypted_bytes": 9 * MIB, "tx_tls_ooo": 3},
                }
            ],
            "encrypted_bytes": 9 * MIB,
            "installed": 1,
            "software": 5,
            "open": {"hw": 1, "stale": 0},
            # What was there when the agent started is not its.
            "sent": {"hw": 2 * MIB, "tls12_gcm": (12 - 10 + 3 + 1) * MIB, "total": (12 + 3 + 5 + 7 - 10) * MIB},
            "anomalies": {"resync": 0, "drops": 0, "ooo": 3, "decrypt": 1},
            "problem": None,
        }
        for family in part.metrics():
            known = CATALOGUE[family.name]
            assert family.kind == known.kind
            assert all(set(sample.labels) == set(known.labels) for sample in family.samples)

    play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("phase", "tx_on", "says"),
    [
        ("hw", False, "is off on every card"),
        ("hw", True, None),
        ("tx", True, "it is not all software"),
        ("tx", False, None),
    ],
)
def test_drift_is_told_when_it_is_seen_twice(tmp_path: Path, phase: str, tx_on: bool, says: str | None) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        part = HwPart(agent, lambda: None, lambda: [replace(CARD, tx_on=tx_on)])
        await agent.order(order(phase=phase))
        for expected in (None, says):
            await part.refresh()
            status = part.status()
            assert status is not None
            told = status["problem"]
            assert (told is None) if expected is None else (expected in told)
        await agent.revert("test")
        await part.refresh()
        after = part.status()
        assert after is not None
        assert after["problem"] is None

    play(tmp_path, scenario)


def test_a_kernel_that_does_not_answer_is_a_problem_and_what_was_known_stays(tmp_path: Path) -> None:
    async def scenario(host: Host, agent: Agent) -> None:
        answers: list[Any] = [[CARD], OSError(5, "Input/output error")]

        def look() -> list[TlsCard]:
            answer = answers.pop(0)
            if isinstance(answer, OSError):
                raise answer
            return list(answer)

        part = HwPart(agent, lambda: None, look)
        await part.refresh()
        await part.refresh()
        status = part.status()
        assert status is not None
        assert "Input/output error" in status["problem"]
        assert status["encrypted_bytes"] is None

    play(tmp_path, scenario)
