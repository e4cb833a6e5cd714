# SPDX-License-Identifier: Apache-2.0
"""Real clients for a demonstration: curl, verifying certificates, with every byte hashed. Bounded in count and time."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

#: One download may take this long (seconds) before it counts as failed.
_MAX_TIME_S = 60
#: Rates of the two clients, for ``curl --limit-rate``: bytes per second.
_SLOW, _FAST = "400K", "4M"


@dataclass(frozen=True)
class Target:
    """Where a host is reached from here, and what it has to answer.

    :param manifest: URL path to the SHA-256 (hex) its content must have.
    """

    name: str
    server_name: str
    port: int
    forwarded_port: int
    ca_file: Path
    manifest: Mapping[str, str]


@dataclass
class Tally:
    """What the clients of one host saw."""

    downloads: int = 0
    bytes: int = 0
    mismatches: int = 0
    failures: list[str] = field(default_factory=list)


class Clients:
    """One thread for each host and kind of client, until :meth:`stop`.

    Per host one client fetches files over a connection it keeps, and one reads a large file slowly, so that there are
    always connections old enough to drain. The load is bounded, since hosts may be emulated on the same machine.
    """

    def __init__(self, targets: Sequence[Target], *, pause_s: float = 0.5, limit_s: float = 900.0) -> None:
        self.tallies = {target.name: Tally() for target in targets}
        self._stop = threading.Event()
        self._deadline = time.monotonic() + limit_s
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._loop, args=(target, slow), daemon=True)
            for target, slow in itertools.product(targets, (False, True))
        ]

    def start(self) -> None:
        """Begin downloading."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Finish the downloads under way and end."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_MAX_TIME_S + 10)

    def _loop(self, target: Target, slow: bool) -> None:
        chosen = [path for path in sorted(target.manifest) if ("large" in path) is slow]
        with tempfile.TemporaryDirectory(prefix="ktls-client-") as scratch:
            while not self._stop.is_set() and time.monotonic() < self._deadline:
                self._fetch(target, chosen, Path(scratch), slow)
                self._stop.wait(self._pause_s)

    def _fetch(self, target: Target, paths: Sequence[str], scratch: Path, slow: bool) -> None:
        command = ["curl", "--silent", "--show-error", "--max-time", str(_MAX_TIME_S), "--cacert", str(target.ca_file)]
        command += ["--noproxy", "*"]
        command += ["--connect-to", f"{target.server_name}:{target.port}:127.0.0.1:{target.forwarded_port}"]
        command += ["--write-out", "%{json}\n", "--limit-rate", _SLOW if slow else _FAST]
        for number, path in enumerate(paths):
            command += ["-o", str(scratch / str(number)), f"https://{target.server_name}:{target.port}{path}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        with self._lock:
            tally = self.tallies[target.name]
            for number, (path, result) in enumerate(itertools.zip_longest(paths, results[: len(paths)])):
                if result is None or result["http_code"] != 200 or result["exitcode"] != 0:
                    said = (
                        (result or {}).get("errormsg") or done.stderr.strip() or f"HTTP {(result or {})['http_code']}"
                    )
                    tally.failures.append(f"{path}: {said}")
                    continue
                content = (scratch / str(number)).read_bytes()
                tally.downloads += 1
                tally.bytes += len(content)
                tally.mismatches += hashlib.sha256(content).hexdigest() != target.manifest[path]
