# SPDX-License-Identifier: Apache-2.0
"""Load from outside of a host, through the forwarded port of the lab: wrk with a connection for each request, and curl.

wrk asks as often as it can unless its script makes it wait: an emulated host has more to do than this.
"""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import threading
from pathlib import Path

WAIT_MS = 1000
BETWEEN_S = 5.0


class Outside:
    """Requests of ``https://site/`` to a port of this machine, as long as the block runs.

    After it, ``requests`` are those of wrk that were answered, ``downloads`` those of curl, and ``errors`` what went
    wrong.
    """

    def __init__(self, place: Path, port: int, ca: str, digest: str) -> None:
        """``ca``: the certificate that the site has to have. ``digest``: SHA-256 of /large."""
        self._port, self._digest = port, digest
        self._ca, self._script = place / "site.pem", place / "wait.lua"
        self._ca.write_text(ca)
        self._script.write_text(f"function delay() return {WAIT_MS} end\n")
        self._over = threading.Event()
        self._curl = threading.Thread(target=self._download)
        self.errors: list[str] = []
        self.requests = self.downloads = 0

    def __enter__(self) -> Outside:
        argv = [
            "wrk", "-t1", "-c2", "-d1800", "--timeout", "30", "-s", str(self._script), "-H", "Host: site",
            "-H", "Connection: close", f"https://127.0.0.1:{self._port}/small",
        ]  # fmt: skip
        self._wrk = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._curl.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._wrk.send_signal(signal.SIGINT)
        said = self._wrk.communicate(timeout=60)[0]
        self._curl.join()
        requests = re.search(r"(\d+) requests in", said)
        self.requests = int(requests[1]) if requests else 0
        self.errors += [line.strip() for line in said.splitlines() if "errors" in line or "Non-2xx" in line]

    def _download(self) -> None:
        argv = [
            "curl", "-sS", "--fail", "--http1.1", "--max-time", "120", "--cacert", str(self._ca),
            "--connect-to", f"site:443:127.0.0.1:{self._port}", "https://site/large",
        ]  # fmt: skip
        while not self._over.is_set():
            got = subprocess.run(argv, capture_output=True, check=False)
            if got.returncode or hashlib.sha256(got.stdout).hexdigest() != self._digest:
                self.errors.append(
                    f"curl: exit {got.returncode}, {len(got.stdout)} bytes, {got.stderr.decode()[-200:]}"
                )
            self.downloads += 1
            self._over.wait(BETWEEN_S)
