# SPDX-License-Identifier: Apache-2.0
"""The load generators that are programs of others: wrk and ``openssl s_time``."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError

HERE = Path(__file__).resolve().parent
_UNITS_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
_SIZES = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
_GRACE_S = 120.0

Window = AbstractContextManager[Any]
"""Open while what happens is measured."""


@dataclass(frozen=True)
class Outcome:
    """What a client saw. ``p99_ms`` is None where it does not measure latency.

    ``client_cpu_s`` is its CPU time where it knows that better than its parent.
    """

    requests: int
    bytes: int
    seconds: float
    p99_ms: float | None = None
    client_cpu_s: float | None = None


def pinned(cpus: Sequence[int], command: Sequence[str]) -> list[str]:
    """Return the command line that runs ``command`` on ``cpus`` only."""
    return ["taskset", "--cpu-list", ",".join(map(str, cpus)), *command]


def parse_wrk(text: str) -> Outcome:
    """Parse what ``wrk --latency`` prints. Raises BenchError: errors, or not its output."""
    totals = re.search(r"^\s*(\d+) requests in ([\d.]+)(us|ms|s|m), ([\d.]+)([KMG]?B) read", text, re.MULTILINE)
    tail = re.search(r"^\s*99%\s+([\d.]+)(us|ms|s|m)\s*$", text, re.MULTILINE)
    trouble = re.search(r"^\s*(Socket errors:.*|Non-2xx or 3xx responses:.*)$", text, re.MULTILINE)
    if trouble is not None:
        raise BenchError(f"wrk saw errors, so its figures mean nothing: {trouble[1].strip()}")
    if totals is None or tail is None or int(totals[1]) == 0:
        raise BenchError(f"wrk measured nothing: {' '.join(text.split())[:300]}")
    return Outcome(
        requests=int(totals[1]),
        seconds=float(totals[2]) * _UNITS_MS[totals[3]] / 1000,
        bytes=int(float(totals[4]) * _SIZES[totals[5]]),
        p99_ms=float(tail[1]) * _UNITS_MS[tail[2]],
    )


def wrk(port: int, cpus: Sequence[int], connections: int, seconds: int, files: int) -> Outcome:
    """Ask for the small files over ``connections`` that stay open. Raises BenchError."""
    threads = min(len(cpus), connections)
    command = ["wrk", "--latency", "-t", str(threads), "-c", str(connections), "-d", f"{seconds}s"]
    command += ["--timeout", "30s", "-s", str(HERE / "requests.lua"), f"https://127.0.0.1:{port}/", "--", str(files)]
    ran = subprocess.run(pinned(cpus, command), capture_output=True, text=True, check=False, timeout=seconds + _GRACE_S)
    if ran.returncode != 0:
        raise BenchError(f"wrk failed: {' '.join((ran.stderr or ran.stdout).split())[:300]}")
    return parse_wrk(ran.stdout)


def parse_s_time(text: str, least_bytes: int) -> int:
    """Return the number of connections that ``openssl s_time -new`` made.

    It prints one character each: ``*`` for a full handshake with TLS 1.1 or later, ``r`` for a resumed session
    (openssl, apps/s_time.c). Raises BenchError: a resumed one, a short answer, or not its output.
    """
    line = re.search(r"^(\d+) connections in \d+ real seconds, (\d+) bytes read per connection", text, re.MULTILINE)
    marks = max(re.findall(r"^[*rt3]+$", text, re.MULTILINE), key=len, default="")
    if line is None or int(line[1]) == 0:
        raise BenchError(f"openssl s_time measured nothing: {' '.join(text.split())[-300:]}")
    if "r" in marks or "*" not in marks:
        raise BenchError("openssl s_time did not make full handshakes")
    if int(line[2]) < least_bytes:
        raise BenchError(f"openssl s_time got {line[2]} bytes an answer, at least {least_bytes} are right")
    return int(line[1])


def s_time(port: int, cpus: Sequence[int], clients: int, seconds: int, ca: str, path: str, least_bytes: int) -> Outcome:
    """Make new connections with a full handshake and one request each, from ``clients`` processes at a time.

    wrk cannot do that: with ``Connection: close`` it resumes the session of the connection before.
    """
    command = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", "-new", "-tls1_3", "-time", str(seconds)]
    command += ["-www", path, "-CAfile", ca, "-verify", "2"]
    started = time.monotonic()
    running = [
        subprocess.Popen(pinned(cpus, command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(clients)
    ]
    texts: list[str] = []
    try:
        texts.extend(process.communicate(timeout=seconds + _GRACE_S)[0] for process in running)
    except subprocess.TimeoutExpired as error:
        raise BenchError("openssl s_time does not end") from error
    finally:
        for process in running:
            process.kill()
            process.wait()
    count = sum(parse_s_time(text, least_bytes) for text in texts)
    return Outcome(requests=count, bytes=count * least_bytes, seconds=time.monotonic() - started)


def skim(
    port: int, cpus: Sequence[int], connections: int, seconds: int, ca: str, files: dict[str, str], window: Window
) -> Outcome:
    """Download large files (path -> SHA-256). ``window`` is open from after the first answers until the last byte."""
    arguments = ["--port", str(port), "--ca", ca, "--connections", str(connections), "--seconds", str(seconds)]
    for path, digest in files.items():
        arguments += ["--file", f"{path}={digest}"]
    pipe = subprocess.PIPE
    command = own_client("bench.skim", cpus, arguments)
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as client:
        assert client.stdin is not None and client.stdout is not None and client.stderr is not None
        try:
            answer = ""
            if client.stdout.readline() == "ready\n":
                with window:
                    client.stdin.write("go\n")
                    client.stdin.flush()
                    answer = client.stdout.readline()
            if not answer:
                raise BenchError(f"bench.skim failed: {' '.join(client.stderr.read().split())[-300:]}")
        finally:
            client.kill()
    found = json.loads(answer)
    return Outcome(int(found["requests"]), int(found["bytes"]), found["seconds"], client_cpu_s=found["cpu_s"])


def own_client(module: str, cpus: Sequence[int], arguments: Sequence[str]) -> list[str]:
    """Return the command line of a client of this package."""
    return pinned(cpus, [sys.executable, "-m", module, *arguments])
