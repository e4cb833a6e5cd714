# SPDX-License-Identifier: Apache-2.0
"""Who is remembered, and how long."""

from __future__ import annotations

from ktls_sidecar.peers import Peers


def test_an_address_is_remembered_for_a_while() -> None:
    clock = [100.0]
    peers = Peers(10, lambda: clock[0])
    assert "[::1]:5" not in peers
    peers.remember("[::1]:5")
    assert "[::1]:9" in peers, "the port does not count"
    assert "[::2]:5" not in peers
    clock[0] = 109.9
    assert "[::1]:5" in peers
    peers.remember("[::1]:6")
    clock[0] = 119.8
    assert "[::1]:5" in peers, "it did it again"
    clock[0] = 120.0
    assert "[::1]:5" not in peers


def test_memory_is_bounded() -> None:
    peers = Peers(10, lambda: 0.0)
    for number in range(5000):
        peers.remember(f"10.0.{number // 256}.{number % 256}:1")
    assert "10.0.0.0:1" not in peers
    assert "10.0.19.135:1" in peers
    assert len(peers._seen) == 4096
