# SPDX-License-Identifier: Apache-2.0
"""Zero-copy behind a card with TLS offload: what a file does that changes, and why ours cannot."""

from __future__ import annotations

import hashlib
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from .pair import GUEST, PLACE, PORT, RIG_GUEST, ROOT, Pair

SIZE = 4 << 20


@pytest.fixture(scope="module")
def told(pair: Pair) -> dict[str, Any]:
    """The story of ``guest/zerocopy.py``, told once."""
    for place in (RIG_GUEST, GUEST):
        pair.put(pair.server, place, f"{PLACE}/stories/{place.relative_to(ROOT)}")
    command = ["env", f"PYTHONPATH={PLACE}/stories", "python3", "-m", "tests.vm.wire.guest.zerocopy"]
    found: dict[str, Any] = json.loads(pair.run(pair.server, command, timeout_s=120).stdout)
    assert found["complaints"] == []
    return found


def test_content_that_stays_survives_retransmission_uncopied(told: dict[str, Any]) -> None:
    still = told["still"]
    assert still["conf"]["tx"] == "hw" and still["zc"], still
    assert still["right"] and still["error"] is None, still
    assert still["dropped"] >= 3 and still["ooo"] >= 3, "parts of it were sent again"


def test_content_that_changes_breaks_the_receiver_when_it_is_not_copied(told: dict[str, Any]) -> None:
    last = told["uncopied"][-1]
    assert last["conf"]["tx"] == "hw" and last["zc"], last
    assert last["writer"]["rounds"] > 0 and last["writer"]["errors"] == []
    assert last["dropped"] >= 1, last
    assert "BAD_RECORD_MAC" in last["error"].upper().replace(" ", "_"), last


def test_content_that_changes_is_only_mixed_when_it_is_copied(told: dict[str, Any]) -> None:
    for copied in told["copied"]:
        assert copied["conf"]["tx"] == "hw" and not copied["zc"], copied
        assert copied["writer"]["rounds"] > 0
        assert copied["error"] is None and copied["dropped"] >= 3, copied


def test_sealed_content_cannot_change(told: dict[str, Any]) -> None:
    sealed = told["sealed"]
    assert "(sealed: " in told["seal"], told["seal"]
    assert sealed["zc"] and sealed["dropped"] >= 3, sealed
    assert sealed["writer"]["rounds"] == 0 and sealed["writer"]["errors"] in (["EPERM"], ["EACCES"]), sealed
    assert sealed["right"] and sealed["error"] is None, sealed


def test_the_sidecar_leaves_the_copy_out_for_sealed_files_only(pair: Pair, tmp_path: Path) -> None:
    """The discipline as it is served, over the wire to another machine, with retransmissions and a writer."""
    content = random.Random(1).randbytes(SIZE)
    (tmp_path / "content").write_bytes(content)
    pair.put(pair.server, tmp_path / "content", "/srv/ktls/open.bin")
    publish = ["python3", "-IS", f"{PLACE}/ktls.pyz", "publish", "/srv/ktls/open.bin", "/srv/ktls/sealed.bin"]
    assert "(sealed: " in pair.run(pair.server, publish).stdout
    writing = (
        "import os, time; end = time.monotonic() + 20; file = open('/srv/ktls/open.bin', 'r+b', buffering=0)\n"
        "while time.monotonic() < end: os.pwrite(file.fileno(), os.urandom(1) * 262144, 4096); time.sleep(0.002)"
    )
    with pair.knob("drop_every", 9):
        pair.run(pair.server, ["systemd-run", "--quiet", "--unit", "hw-writer", "python3", "-c", writing])
        try:
            opened, seen = download(pair, "open.bin")
            sealed, seen_sealed = download(pair, "sealed.bin")
        finally:
            pair.run(pair.server, ["systemctl", "stop", "hw-writer"], check=False)
    assert "txconf: hw" in seen and "zc_ro_tx" not in seen, seen
    assert opened["status"] == 0 and opened["size"] == SIZE, opened
    assert "txconf: hw" in seen_sealed and "zc_ro_tx" in seen_sealed, seen_sealed
    assert sealed["status"] == 0 and sealed["sha256"] == hashlib.sha256(content).hexdigest(), sealed
    refused = pair.run(pair.server, "echo x >> /srv/ktls/sealed.bin", check=False)
    assert refused.returncode != 0 and "not permitted" in refused.stderr.lower(), refused


def download(pair: Pair, name: str) -> tuple[dict[str, Any], str]:
    """Download with curl from the peer, slowly enough for ss on the server; what came, and what ss said."""
    fqdn = pair.lab.host(pair.server).fqdn
    limit = (
        f"--tls-max 1.2 --ciphers ECDHE-ECDSA-AES128-GCM-SHA256 --limit-rate 1M --max-time 40 --cacert {PLACE}/ca.pem"
    )
    where = f"--connect-to {fqdn}:{PORT}:{pair.address}:{PORT} https://{fqdn}:{PORT}/{name}"
    unit = f"hw-curl-{os.getpid()}-{name.split('.')[0]}"
    script = f"curl -sS {limit} -o {PLACE}/{name} {where}; echo $? > {PLACE}/{name}.status"
    pair.run(pair.peer, ["systemd-run", "--quiet", "--unit", unit, "sh", "-c", script])
    seen, deadline = "", time.monotonic() + 45
    while time.monotonic() < deadline:
        found = pair.run(pair.server, f"ss -tieOnH state established sport = :{PORT}").stdout
        peers = [line for line in found.splitlines() if pair.lab.host(pair.peer).address in line and "txconf" in line]
        seen = "\n".join(peers) or seen
        state = pair.run(pair.peer, f"cat {PLACE}/{name}.status 2>/dev/null || true").stdout.strip()
        if state:
            break
        time.sleep(0.3)
    digest = pair.run(pair.peer, f"sha256sum {PLACE}/{name}; stat -c %s {PLACE}/{name}", check=False).stdout.split()
    return {"status": int(state or 99), "sha256": digest[0], "size": int(digest[-1])}, seen
