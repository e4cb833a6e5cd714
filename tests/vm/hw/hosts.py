# SPDX-License-Identifier: Apache-2.0
"""A host that serves from a played card, and its peer."""

from __future__ import annotations

import hashlib
import json
import subprocess
import threading
from pathlib import Path
from typing import Any

from ktls_control.demo import PORT, target

from ..fleet.fleet import Deployed

GUEST = Path(__file__).with_name("guest")
PLACE = "/root/hw"
SIZE = 16 << 20
CARD = "sim0"


class Pair:
    """``server`` has the card that matters; ``peer`` sees the real wire."""

    def __init__(self, fleet: Deployed) -> None:
        self.fleet = fleet
        self.server, self.peer = fleet.names
        self.address = fleet.lab.host(self.server).address
        self.name = target(fleet.hosts()[0]).server_name
        self.sha256 = ""

    def prepare(self) -> None:
        """Files to serve, the peer's script, and a configuration with consent and quick evidence."""
        ca = target(self.fleet.hosts()[0]).ca_file.read_text()
        self.shell(self.peer, f"mkdir -p {PLACE}; cat >{PLACE}/ca.pem", ca)
        for host in (self.server, self.peer):
            self.shell(host, f"mkdir -p {PLACE}; cat >{PLACE}/story.py", (GUEST / "story.py").read_text())
        told = self.story(self.server, "prepare", str(SIZE))
        self.sha256 = told["sha256"]
        assert len(self.sha256) == len(hashlib.sha256().hexdigest())

    def shell(self, host: str, script: str, stdin: str | None = None) -> str:
        """Output of a script on a host."""
        done = self.fleet.lab.ssh(host, script, stdin=stdin, timeout=150)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def story(self, host: str, verb: str, *arguments: str) -> dict[str, Any]:
        """What a verb of the guest's script tells."""
        told: dict[str, Any] = json.loads(self.shell(host, f"python3 {PLACE}/story.py {verb} {' '.join(arguments)}"))
        return told

    def download(self, *arguments: str) -> Download:
        """Begin a download on the peer, over the network between the hosts."""
        script = f"python3 {PLACE}/story.py get {self.name} {self.address} {PORT} {' '.join(arguments)}"
        return Download(self.fleet.lab.ssh_argv(self.peer, script))

    def card(self) -> dict[str, Any]:
        """Features, counters and connections of the server, as its own tools have them."""
        return self.story(self.server, "card")

    def agent(self, *arguments: str) -> dict[str, Any]:
        """Ask the server's agent."""
        return self.fleet.agent(self.server, *arguments)

    def order(self, phase: str, identity: str, confirm: bool = True) -> dict[str, Any]:
        """Order, and confirm."""
        epoch = self.agent("status")["epoch"] + 1
        status = self.fleet.order(self.server, phase, epoch, lease_s=600, identity=identity)
        assert status.get("order") == "pending", status.get("error")
        if confirm:
            status = self.agent("confirm", "--id", identity, "--epoch", str(epoch))
            assert status.get("order") == "committed", status
        return status


class Download:
    """One download on another machine, under way."""

    def __init__(self, argv: list[str]) -> None:
        self._child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._done: tuple[bytes, bytes] = (b"", b"")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        self._done = self._child.communicate()

    @property
    def running(self) -> bool:
        """Whether it is under way."""
        return self._reader.is_alive()

    def told(self, timeout_s: float = 120) -> dict[str, Any]:
        """Wait for its end; what it negotiated and got."""
        self._reader.join(timeout_s)
        assert not self.running, "the download does not end"
        assert self._child.returncode == 0, self._done
        told: dict[str, Any] = json.loads(self._done[0])
        return told
