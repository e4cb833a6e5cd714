# SPDX-License-Identifier: Apache-2.0
"""Connections and bytes of every host over time, as the hosts report them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from .fanout import stream
from .fleet import AGENT
from .inventory import Host

PATHS = ("ktls_tx", "userspace")


@dataclass(frozen=True)
class Sample:
    """One reading of one host.

    :param at: control node's clock when it arrived (seconds since the epoch).
    :param connections: open now, by path.
    :param bytes: application bytes sent since the sidecar started, by path.
    """

    host: str
    at: float
    connections: dict[str, int]
    bytes: dict[str, int]


class Sampler:
    """Follows ``ktls-agent watch`` on each host over one connection, until :meth:`stop`."""

    def __init__(self, hosts: Sequence[Host], interval_s: float = 1.0) -> None:
        self.samples: list[Sample] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._follow, args=(host, interval_s), daemon=True) for host in hosts]

    def start(self) -> None:
        """Begin reading."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Sample]:
        """:returns: all samples, in order of time."""
        self._stop.set()
        for thread in self._threads:
            thread.join(10)
        return sorted(self.samples, key=lambda sample: sample.at)

    def _follow(self, host: Host, interval_s: float) -> None:
        for line in stream(host, f"{AGENT} watch --json --interval {interval_s:g}", self._stop):
            sample = parse(host.name, line, time.time())
            if sample:
                self.samples.append(sample)


def parse(host: str, line: str, at: float) -> Sample | None:
    """A line of ``ktls-agent watch --json``; None for anything without counts. Pure."""
    try:
        status = json.loads(line)
    except ValueError:
        return None
    if not isinstance(status, dict) or not isinstance(status.get("sidecar"), dict):
        return None
    return Sample(
        host,
        at,
        {path: int(status["connections"].get(path, 0)) for path in PATHS},
        {path: int(status["bytes"].get(path, 0)) for path in PATHS},
    )
