# SPDX-License-Identifier: Apache-2.0
"""A real Prometheus on this machine, loopback only, that scrapes a lab host's metrics socket through ssh."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ktls_lab import api

ROOT = Path(__file__).resolve().parents[3]
RULES = ROOT / "dashboards" / "ktls.rules.yml"
METRICS_SOCKET = "/run/ktls-agent/metrics.sock"
_START_S = 30.0


def free_port() -> int:
    """Return a TCP port of loopback that nobody has now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def wait(what: str, check: Callable[[], Any], timeout_s: float) -> Any:
    """Return the first true answer of ``check``; fails the test when that never comes.

    :param timeout_s: what it takes at most on a quiet machine; three times that are given.
    """
    deadline = time.monotonic() + 3 * timeout_s
    while not (found := check()):
        assert time.monotonic() < deadline, f"not within {3 * timeout_s:g} s: {what}"
        time.sleep(0.3)
    return found


@contextlib.contextmanager
def forwarded(lab: api.Lab, host: str) -> Iterator[int]:
    """The host's metrics socket as a port of our loopback; the host opens none."""
    port = free_port()
    argv = lab.ssh_argv(host)
    options = ["-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{port}:{METRICS_SOCKET}"]
    # It complains of every scrape while the agent is stopped, which a test does on purpose.
    process = subprocess.Popen([argv[0], *options, *argv[1:]], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


class Prometheus:
    """Its HTTP API."""

    def __init__(self, port: int) -> None:
        self._base = f"http://127.0.0.1:{port}"

    def ready(self) -> bool:
        """Whether it answers queries."""
        try:
            with urllib.request.urlopen(f"{self._base}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def api(self, path: str, **arguments: str) -> Any:
        """The ``data`` of an answer that says success."""
        query = urllib.parse.urlencode(arguments)
        with urllib.request.urlopen(f"{self._base}/api/v1/{path}?{query}", timeout=10) as answer:
            found = json.load(answer)
        assert found["status"] == "success", found
        return found["data"]

    def query(self, expr: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series of an instant query."""
        return [(row["metric"], float(row["value"][1])) for row in self.api("query", query=expr)["result"]]

    def value(self, expr: str) -> float | None:
        """The value of a query with one series, or None without one."""
        found = self.query(expr)
        assert len(found) <= 1, f"{expr}: {found}"
        return found[0][1] if found else None

    def firing(self) -> set[str]:
        """Names of alerts that fire now."""
        return {a["labels"]["alertname"] for a in self.api("alerts")["alerts"] if a["state"] == "firing"}


@contextlib.contextmanager
def prometheus(directory: Path, target_port: int, instance: str) -> Iterator[Prometheus]:
    """Run Prometheus with our rules and one target."""
    config = {
        "global": {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "2s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "ktls",
                "static_configs": [{"targets": [f"127.0.0.1:{target_port}"], "labels": {"instance": instance}}],
            }
        ],
    }
    path, log = directory / "prometheus.yml", directory / "prometheus.log"
    path.write_text(json.dumps(config))  # JSON is YAML
    port = free_port()
    command = [
        "prometheus", f"--config.file={path}", f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        server = Prometheus(port)
        wait(f"Prometheus is ready; see {log}", lambda: process.poll() is None and server.ready(), _START_S)
        yield server
    finally:
        process.terminate()
        process.wait(20)
