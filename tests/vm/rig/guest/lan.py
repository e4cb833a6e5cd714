# SPDX-License-Identifier: Apache-2.0
"""Two hosts on the lab's private network: ``openssl s_server`` behind a played card, and curl on another host.

``python3 -m guest.lan serve SIZE`` serves one download and tells what kernel and card did; ``python3 -m guest.lan fetch
ADDRESS`` downloads and looks at its own wire meanwhile. Both print JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .wire import GCM128, Watcher, certificate, content, moved, run, statistics, tls_stat, until

CARD, LOWER, PORT = "sim0", "eth1", 9443
PLACE = Path("/root/rig")
# s_server of OpenSSL 3.0 has no -ktls.
CONFIGURATION = """\
openssl_conf = init
[init]
ssl_conf = modules
[modules]
system_default = all
[all]
Options = KTLS
"""


def serve(size: str) -> dict[str, Any]:
    """Serve ``object`` once, by sendfile; look at the connection until it ends."""
    pem = certificate(PLACE)
    (PLACE / "object").write_bytes(content(int(size)))
    (PLACE / "ktls.cnf").write_text(CONFIGURATION)
    tls, card = tls_stat(), statistics(CARD)
    command = ["openssl", "s_server", "-accept", str(PORT), "-cert", str(pem), "-key", str(pem), "-tls1_2"]
    command += ["-cipher", GCM128, "-sendfile", "-WWW", "-naccept", "1"]
    server = subprocess.Popen(
        command,
        env=os.environ | {"OPENSSL_CONF": str(PLACE / "ktls.cnf")},
        cwd=PLACE,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seen: list[str] = []
    deadline = time.monotonic() + 50
    while server.poll() is None and time.monotonic() < deadline:
        words = run("ss", "-tienH", "state", "established", "sport", "=", f":{PORT}").split()
        found = [second for first, second in zip(words, words[1:]) if first == "txconf:"]
        seen += [word for word in found if seen[-1:] != [word]]
        time.sleep(0.02)
    if server.poll() is None:
        server.kill()
    output = server.communicate()[0]
    until(lambda: (now := statistics(CARD))["tx_tls_ctx"] == now["tx_tls_del"])
    return {
        "conf": seen,
        "tls": moved(tls, tls_stat()),
        "card": moved(card, statistics(CARD)),
        "output": output[-500:],
        "features": [line.strip() for line in run("ethtool", "-k", CARD).splitlines() if "tls-hw" in line],
    }


def fetch(address: str) -> dict[str, Any]:
    """Download the object. The certificate is the server's own, handed over by the test."""
    watcher = Watcher(LOWER, here=True)
    command = ["curl", "-sS", "--tlsv1.2", "--tls-max", "1.2", "--cacert", str(PLACE / "peer.pem"), "--max-time", "30"]
    command += ["--retry", "40", "--retry-connrefused", "--retry-delay", "1", "--retry-max-time", "40"]
    command += ["--connect-to", f"rig.test:{PORT}:{address}:{PORT}", f"https://rig.test:{PORT}/object"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=90)
    return {
        "status": done.returncode,
        "error": done.stderr.decode(errors="replace"),
        "size": len(done.stdout),
        "sha256": hashlib.sha256(done.stdout).hexdigest(),
        "seen": watcher.end(),
    }


if __name__ == "__main__":
    print(json.dumps({"serve": serve, "fetch": fetch}[sys.argv[1]](sys.argv[2])))
