# SPDX-License-Identifier: Apache-2.0
"""A file that changes while a card with TLS offload sends it, on one host's own wire (``tests/vm/rig/guest/wire.py``).

``python3 -m tests.vm.wire.guest.zerocopy`` prints JSON: what the receiver said with zero-copy and without it, for
content that changes, and for content that cannot. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import select
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.vm.rig.guest.wire import (
    NO_FAULTS,
    TIMEOUT_S,
    Connection,
    Wire,
    connection,
    kernel_complaints,
    knobs,
    moved,
    statistics,
)

PLACE = Path("/root/hw")
SIZE = 1 << 20
SOL_TLS, TLS_TX_ZEROCOPY_RO = 282, 3  # linux/tls.h
# Of so many packets one is lost. A loss of more, and TCP waits more than it sends.
DROP_EVERY = 13
TRIES = 6


class Writer:
    """Writes to a file, from its beginning to its end and again, other bytes each time."""

    def __init__(self, path: Path) -> None:
        """Begin."""
        self.errors: set[str] = set()
        self.rounds = 0
        self._path = path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def _write(self) -> None:
        try:
            with open(self._path, "r+b", buffering=0) as file:
                while not self._ended.wait(0.002):
                    self.rounds += 1
                    for start in range(0, SIZE, 65536):
                        os.pwrite(file.fileno(), bytes([self.rounds % 256]) * 65536, start)
        except OSError as error:
            self.errors.add(errno.errorcode.get(error.errno or 0, str(error)))

    def end(self) -> dict[str, Any]:
        """Stop, and tell what it could do."""
        self._ended.set()
        self._thread.join()
        return {"rounds": self.rounds, "errors": sorted(self.errors)}


def receive(wired: Connection) -> dict[str, Any]:
    """Read until the end; tell how much came, its hash, and what went wrong."""
    got, sha = 0, hashlib.sha256()
    try:
        while got < SIZE:
            part = wired.client.recv(65536)
            if not part:
                return {"got": got, "sha256": sha.hexdigest(), "error": "ended early"}
            got += len(part)
            sha.update(part)
    except OSError as error:
        with_reason = getattr(error, "reason", None) or str(error)
        return {"got": got, "sha256": sha.hexdigest(), "error": str(with_reason)}
    return {"got": got, "sha256": sha.hexdigest(), "error": None}


def transfer(wire: Wire, path: Path, zerocopy: bool, write: bool) -> dict[str, Any]:
    """Send a file by sendfile(2) while the card drops packets, so that the kernel sends parts of it again."""
    before = statistics()
    with connection(wire) as wired:
        sock = socket.socket(fileno=os.dup(wired.server.fileno()))
        with sock:
            sock.setsockopt(SOL_TLS, TLS_TX_ZEROCOPY_RO, int(zerocopy))
            told: dict[str, Any] = {"conf": wired.conf(), "zc": "zc_ro_tx" in wired.ss()}
            writer = Writer(path) if write else None
            received: dict[str, Any] = {}

            def take() -> None:
                received.update(receive(wired))
                if received["error"]:
                    # Lets the sender, whose buffer is full, end too.
                    wired.client.shutdown(socket.SHUT_RDWR)

            reader = threading.Thread(target=take)
            reader.start()
            at = 0
            try:
                with open(path, "rb") as file:
                    while at < SIZE:
                        # A socket with a time limit does not block; for sendfile(2) that is ours to see to.
                        if not select.select([], [sock], [], TIMEOUT_S)[1]:
                            raise TimeoutError(errno.ETIMEDOUT, "the receiver takes nothing")
                        with contextlib.suppress(BlockingIOError):
                            at += os.sendfile(sock.fileno(), file.fileno(), at, SIZE - at)
            except OSError as error:
                told["sender"] = errno.errorcode.get(error.errno or 0, str(error))
            reader.join()
            if received["error"]:
                told["alert"] = alert(wired)
            if writer is not None:
                told["writer"] = writer.end()
    after = moved(before, statistics())
    return {**told, **received, "dropped": after.get("sim_dropped", 0), "ooo": after.get("tx_tls_ooo", 0)}


def alert(wired: Connection) -> str:
    """Return what the receiver told the sender that it minds."""
    try:
        wired.server.settimeout(5)
        wired.server.recv(1)
    except OSError as error:
        return str(getattr(error, "reason", None) or error)
    return ""


@contextlib.contextmanager
def sealed(path: Path) -> Iterator[str]:
    """``path`` as ktls-publish seals it; gives the seal."""
    said = subprocess.run(
        ["python3", "-IS", f"{PLACE}/ktls.pyz", "publish", str(path), f"{path}.sealed"],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    try:
        yield said.stdout.strip()
    finally:
        argv = ["python3", "-IS", f"{PLACE}/ktls.pyz", "publish", "--remove", f"{path}.sealed"]
        subprocess.run(argv, capture_output=True, check=True, timeout=60)


def main() -> dict[str, Any]:
    """Tell the story."""
    Path("/root/rig").mkdir(exist_ok=True)  # of Wire
    path = PLACE / "content.bin"
    path.write_bytes(os.urandom(SIZE))
    told: dict[str, Any] = {}
    with Wire() as wire:
        knobs(**{**NO_FAULTS, "drop_every": DROP_EVERY})
        told["still"] = transfer(wire, path, True, False)
        told["still"]["right"] = told["still"]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        told["copied"] = transfer(wire, path, False, True)
        told["uncopied"] = []
        for _ in range(TRIES):
            told["uncopied"].append(transfer(wire, path, True, True))
            if told["uncopied"][-1]["error"]:
                break
        with sealed(path) as seal:
            told["seal"] = seal
            held = Path(f"{path}.sealed")
            told["sealed"] = transfer(wire, held, True, True)
            told["sealed"]["right"] = told["sealed"]["sha256"] == hashlib.sha256(held.read_bytes()).hexdigest()
        knobs(**NO_FAULTS)
    return {**told, "complaints": kernel_complaints()}


if __name__ == "__main__":
    print(json.dumps(main()))
