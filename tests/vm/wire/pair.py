# SPDX-License-Identifier: Apache-2.0
"""Two lab hosts on one wire: ``server`` has the played card and our sidecar behind it, ``peer`` is another machine."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ktls_host.probe_object import PROBE_NAME
from tests.authority import Authority

from ..levers.lever_lab import Levers

ROOT = Path(__file__).parents[3]
GUEST = Path(__file__).with_name("guest")
RIG_GUEST = ROOT / "tests/vm/rig/guest"
PLACE = "/root/hw"
PORT = 8443
CARD = "sim0"
IMAGES = ("debian13", "debian13")

SETUP = f"""set -e
modprobe tls
mkdir -p {PLACE} /srv/ktls
cat > {PLACE}/sidecar.json <<'X'
{{"certificate": "{PLACE}/server.pem", "key": "{PLACE}/server.key", "root": "/srv/ktls", "workers": 1,
  "listen": [{{"host": "0.0.0.0", "port": {PORT}}}], "control_group": null, "off_flags": ["{PLACE}/off"],
  "zerocopy": true, "control_socket": "{PLACE}/control.sock", "http_socket": null, "access_log": false}}
X
cat > {PLACE}/mode.py <<'X'
import sys, time
sys.path.insert(0, "{PLACE}/ktls.pyz")
from ktls_host.errors import KtlsError
from ktls_host.jsonsock import call
from ktls_host.probe_object import probe_bytes
open("/srv/ktls/{PROBE_NAME}", "wb").write(probe_bytes())
for _ in range(100):
    try:
        print(call("{PLACE}/control.sock", {{"verb": "mode", "mode": "tx"}}, 20)["effective_mode"])
        break
    except KtlsError:
        time.sleep(0.3)
X
systemd-run --quiet --unit hw-sidecar python3 -IS {PLACE}/ktls.pyz sidecar --config {PLACE}/sidecar.json
python3 {PLACE}/mode.py
"""


@dataclass(frozen=True)
class Pair(Levers):
    """The hosts. :param authority: of the server's certificate."""

    authority: Authority

    @property
    def server(self) -> str:
        """Name of the host that serves."""
        return self.names[0]

    @property
    def peer(self) -> str:
        """Name of the other one."""
        return self.names[1]

    @property
    def address(self) -> str:
        """The server's address on the wire."""
        return self.lab.host(self.server).address

    def prepare(self, scratch: Path) -> None:
        """Start the sidecar on the server, transmitting by kernel TLS."""
        built = scratch / "ktls.pyz"
        argv = [sys.executable, str(ROOT / "agent/build.py"), "--output", str(built)]
        subprocess.run(argv, check=True, capture_output=True, timeout=60)
        pair = self.authority.issue("server", [self.lab.host(self.server).fqdn])
        self.put(self.server, built, f"{PLACE}/ktls.pyz")
        self.put(self.server, pair.certificate, f"{PLACE}/server.pem")
        self.put(self.server, pair.key, f"{PLACE}/server.key")
        self.put(self.peer, self.authority.path, f"{PLACE}/ca.pem")
        assert self.run(self.server, SETUP, timeout_s=120).stdout.strip() == "tx", self.log("hw-sidecar")

    def log(self, unit: str) -> str:
        """What a unit of the server said."""
        return self.run(self.server, ["journalctl", "-u", unit, "--no-pager", "-o", "cat"]).stdout

    def card(self) -> dict[str, int]:
        """Counters of the server's card."""
        lines = (line.split(":") for line in self.run(self.server, ["ethtool", "-S", CARD]).stdout.splitlines())
        return {words[0].strip(): int(words[1]) for words in lines if len(words) == 2 and words[1].strip().isdigit()}

    def tls_stat(self) -> dict[str, int]:
        """The server's kernel counters."""
        text = self.run(self.server, "cat /proc/net/tls_stat").stdout
        return {name: int(value) for name, value in (line.split() for line in text.splitlines())}

    @contextmanager
    def knob(self, name: str, value: int) -> Iterator[None]:
        """Turn a knob of the server's card for a while."""
        path = f"/sys/kernel/debug/tlssim/{CARD}/{name}"
        self.run(self.server, f"echo {value} > {path}")
        try:
            yield
        finally:
            self.run(self.server, f"echo 0 > {path}")

    def sentinel(self, *arguments: str) -> dict[str, Any]:
        """Ask the peer's sentinel by its own command."""
        answer: dict[str, Any] = json.loads(self.run(self.peer, ["ktls-sentinel", *arguments, "--json"]).stdout)
        return answer
