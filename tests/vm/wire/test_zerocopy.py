# SPDX-License-Identifier: Apache-2.0
"""Zero-copy behind a card with TLS offload: what a file does that changes, and why ours cannot."""

from __future__ import annotations

import hashlib
import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
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
    assert still["dropped"] >= 1 and still["ooo"] >= 1, "parts of it were sent again"


def test_content_that_changes_breaks_the_receiver_when_it_is_not_copied(told: dict[str, Any]) -> None:
    last = told["uncopied"][-1]
    assert last["conf"]["tx"] == "hw" and last["zc"], last
    assert last["writer"]["rounds"] > 0 and last["writer"]["errors"] == []
    assert last["dropped"] >= 1, last
    assert last["error"] and "BAD_RECORD_MAC" in last["alert"].upper().replace(" ", "_"), last


def test_content_that_changes_is_only_mixed_when_it_is_copied(told: dict[str, Any]) -> None:
    copied = told["copied"]
    assert copied["conf"]["tx"] == "hw" and not copied["zc"], copied
    assert copied["writer"]["rounds"] > 0 and copied["writer"]["errors"] == []
    assert copied["error"] is None and copied["dropped"] >= 1, copied


def test_sealed_content_cannot_change(told: dict[str, Any]) -> None:
    sealed = told["sealed"]
    assert "(sealed: " in told["seal"], told["seal"]
    assert sealed["zc"] and sealed["dropped"] >= 1, sealed
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
    # What it was sent was authentic, and then the sidecar saw that the file is another, and sent no more of it.
    assert "unexpected eof" in opened["said"] and "mac" not in opened["said"], opened
    assert "file_changed" in pair.log("hw-sidecar")
    assert "txconf: hw" in seen_sealed and "zc_ro_tx" in seen_sealed, seen_sealed
    assert sealed["said"] == "" and sealed["sha256"] == hashlib.sha256(content).hexdigest(), sealed
    refused = pair.run(pair.server, "echo x >> /srv/ktls/sealed.bin", check=False)
    assert refused.returncode != 0 and "not permitted" in refused.stderr.lower(), refused


def download(pair: Pair, name: str) -> tuple[dict[str, Any], str]:
    """Download with curl from the peer, slowly enough for ss on the server; what came, and what ss said."""
    fqdn = pair.lab.host(pair.server).fqdn
    argv = ["curl", "-sS", "--tls-max", "1.2", "--limit-rate", "1M", "--max-time", "40", "--cacert", f"{PLACE}/ca.pem"]
    argv += ["-o", f"{PLACE}/{name}", "--connect-to", f"{fqdn}:{PORT}:{pair.address}:{PORT}"]
    peer = pair.lab.host(pair.peer).address
    seen = ""
    with ThreadPoolExecutor() as pool:
        done = pool.submit(pair.run, pair.peer, [*argv, f"https://{fqdn}:{PORT}/{name}"], check=False)
        while not done.done():
            found = pair.run(pair.server, f"ss -tieOnH state established sport = :{PORT}").stdout
            seen = "\n".join(line for line in found.splitlines() if peer in line and "txconf" in line) or seen
            time.sleep(0.2)
    digest = pair.run(pair.peer, ["sha256sum", f"{PLACE}/{name}"]).stdout.split()[0]
    return {"said": done.result().stderr.strip().lower(), "sha256": digest}, seen
