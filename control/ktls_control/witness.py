# SPDX-License-Identifier: Apache-2.0
"""A second opinion on a host from tools that are not ours: ``ss -tie`` and ``/proc/net/tls_stat``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .fanout import run
from .inventory import Host

_MARK = "--- tls_stat ---"


@dataclass(frozen=True)
class Witness:
    """What ``ss`` and the kernel say of the serving port.

    :param ktls_tx: established connections with ``txconf: sw`` or ``hw``.
    :param ktls_rx: established connections with ``rxconf: sw`` or ``hw``.
    :param others: established connections without kernel transmit.
    """

    ktls_tx: int
    ktls_rx: int
    others: int
    tls_stat: dict[str, int]


def command(port: int) -> str:
    """The shell command whose output :func:`parse` reads."""
    return f"sh -c \"ss -tienH state established sport = :{port}; echo '{_MARK}'; cat /proc/net/tls_stat\""


def parse(text: str) -> Witness:
    """Pure; ``ss`` prints one connection over one or two lines, the second starting with white space."""
    sockets, _mark, stat = text.partition(_MARK)
    records = [record for record in re.split(r"\n(?=\S)", sockets) if record.strip()]
    tx = sum(bool(re.search(r"txconf: (sw|hw)", record)) for record in records)
    rx = sum(bool(re.search(r"rxconf: (sw|hw)", record)) for record in records)
    counters = {}
    for line in stat.splitlines():
        fields = line.split()
        if len(fields) == 2 and fields[1].isdigit():
            counters[fields[0]] = int(fields[1])
    return Witness(tx, rx, len(records) - tx, counters)


def read(hosts: Sequence[Host], port: int) -> dict[str, Witness | None]:
    """One witness for each host, None where it could not be heard."""
    heard: dict[str, Witness | None] = {host.name: None for host in hosts}
    for answer in run(hosts, command(port)):
        if answer.ok:
            heard[answer.host.name] = parse(answer.stdout)
    return heard


def as_dict(witness: Witness | None) -> dict[str, Any] | None:
    """Plain data for the summary."""
    return None if witness is None else {**witness.__dict__}
