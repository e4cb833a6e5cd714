# SPDX-License-Identifier: Apache-2.0
"""Measures on this machine and prints the result as JSON; progress goes to standard error.

``python3 -m bench.measure SETTINGS``, with the JSON of :class:`bench.settings.Settings`. With ``--own-network`` it has
been started in a network namespace of its own (unshare(1)), whose loopback it brings up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import machine, tools
from bench.errors import BenchError
from bench.idle import raise_file_limit
from bench.scenarios import RUNNERS, Context
from bench.settings import Settings, split_cpus
from bench.stage import stage

SCHEMA = 1
_SPARE_FILES = 200
_CONGESTION_CONTROL = "/proc/sys/net/ipv4/tcp_congestion_control"


def run(settings: Settings, own_network: bool) -> dict[str, Any]:
    """Measure what ``settings`` ask for. Raises BenchError."""
    tools.require()
    say = _say
    if own_network:
        _prepare_network()
    limit = raise_file_limit()
    notes = []
    if "idle" in settings.only and settings.idle > limit - _SPARE_FILES:
        notes.append(f"only {limit - _SPARE_FILES} idle connections: the limit of open files is {limit}")
        settings = replace(settings, idle=limit - _SPARE_FILES)
    server_cpus, client_cpus = split_cpus(os.sched_getaffinity(0), settings.workers)
    if server_cpus == client_cpus:
        notes.append("server and load generator share their CPU: rates per second are those of both together")
    load_before, started = machine.load_average(), time.time()
    results = []
    with stage(settings.server_user) as made:
        context = Context(settings, made, server_cpus, client_cpus, say)
        for name in settings.only:
            say(f"{name}:")
            results.append(RUNNERS[name](context, name))
    return {
        "schema": SCHEMA,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "duration_s": round(time.time() - started),
        "settings": settings.to_json(),
        "machine": machine.describe(server_cpus, client_cpus),
        "load_average": [load_before, machine.load_average()],
        "notes": notes,
        "scenarios": results,
    }


def _prepare_network() -> None:
    ran = subprocess.run(["ip", "link", "set", "lo", "up"], capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise BenchError(f"cannot bring loopback up: {ran.stderr.strip()}")
    # BBR paces what it sends, on loopback too, and would measure itself. Without loss these two are alike; a kernel
    # may keep either from network namespaces.
    for name in ("cubic", "reno"):
        with contextlib.suppress(OSError):
            Path(_CONGESTION_CONTROL).write_text(name, encoding="ascii")
            return


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0 when it was measured, 2 when it could not be."""
    parser = argparse.ArgumentParser(prog="bench.measure")
    parser.add_argument("settings")
    parser.add_argument("--own-network", action="store_true")
    given = parser.parse_args(argv)
    try:
        result = run(Settings.from_json(json.loads(given.settings)), given.own_network)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
