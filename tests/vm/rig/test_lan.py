# SPDX-License-Identifier: Apache-2.0
"""The played card on the private network: another machine is the peer and sees the real wire."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .guest.wire import content
from .hosts import IMAGES, PLACE, Rig

SIZE = 1 << 20
CERTIFICATE = 'from pathlib import Path; from guest.wire import certificate; certificate(Path("/root/rig"))'


@pytest.fixture(scope="module")
def joined(rig: Rig) -> Rig:
    """Put the card on each host's private network, as ``ktls lab up --rig`` does, and hand the certificates round."""
    for name in rig.names:
        rig.lab.add_rig(name)
        rig.run(name, f"cd /root; PYTHONPATH={PLACE} python3 -c '{CERTIFICATE}'")
    return rig


def download(rig: Rig, server: str, client: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """One download; return what both sides tell."""
    pem = rig.run(server, ["openssl", "x509", "-in", "/root/rig/rig.pem"]).stdout
    rig.run(client, "cat > /root/rig/peer.pem", stdin=pem)
    address = rig.lab.host(server).address
    with ThreadPoolExecutor() as pool:
        served = pool.submit(rig.guest, server, "lan", "serve", str(SIZE))
        fetched = rig.guest(client, "lan", "fetch", address)
        return served.result(), fetched


@pytest.mark.parametrize("image", IMAGES)
def test_another_machine_downloads_and_looks_at_the_wire(joined: Rig, image: str) -> None:
    server = joined.host(image)
    client = joined.host(IMAGES[(IMAGES.index(image) + 1) % len(IMAGES)])
    served, fetched = download(joined, server, client)
    assert fetched["status"] == 0, (fetched, served)
    assert fetched["sha256"] == hashlib.sha256(content(SIZE)).hexdigest()
    assert fetched["seen"]["marked"] == 0 < fetched["seen"]["frames"]
    # The receive side is switched on first, before there is a key to transmit by.
    assert served["conf"] in (["hw"], ["none", "hw"]) and served["tls"]["TlsTxDevice"] == 1, served
    assert served["card"]["tx_tls_encrypted_bytes"] >= SIZE
    knob = "/sys/kernel/debug/tlssim/sim0/leak_every"
    # The first packet of a session is the last of the handshake.
    joined.run(server, f"echo 2 > {knob}")
    served, fetched = download(joined, server, client)
    joined.run(server, f"echo 0 > {knob}")
    # CURLE_RECV_ERROR: the record's tag is wrong; each OpenSSL has other words for it.
    assert fetched["status"] == 56 and "SSL_read" in fetched["error"], fetched
    assert fetched["sha256"] != hashlib.sha256(content(SIZE)).hexdigest()
    assert fetched["seen"]["marked"] >= 1, "the other machine read it"
    assert served["card"]["sim_leaked"] >= 1


def test_the_card_is_there_again_after_a_boot(joined: Rig) -> None:
    host = joined.host("debian13")
    joined.lab.fault(host, "reboot")
    assert joined.run(host, ["ethtool", "-i", "sim0"]).stdout.startswith("driver: tlssim\n")
    peer = joined.lab.host(joined.host("debian12")).address
    route = joined.run(host, ["ip", "route", "get", peer]).stdout
    assert " dev sim0 " in route
    joined.run(host, ["ping", "-c", "1", "-W", "5", peer])
