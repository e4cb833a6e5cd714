# SPDX-License-Identifier: Apache-2.0
"""The kernel's account of kernel TLS on this host: no word of GnuTLS is taken for it."""

from __future__ import annotations

import subprocess


def sockets(port: int) -> list[str]:
    """What ss(8), as root, says of the established connections that are served on ``port``, one line each."""
    argv = ["ss", "-tieHO", "state", "established", f"sport = :{port}"]
    text = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    return [line for line in text.splitlines() if line.strip()]


def tls_stat() -> dict[str, int]:
    """The counters of /proc/net/tls_stat; none while the tls module is not loaded."""
    try:
        with open("/proc/net/tls_stat", encoding="ascii") as file:
            return {name: int(value) for name, value in (line.split() for line in file)}
    except FileNotFoundError:
        return {}


def added(before: dict[str, int]) -> dict[str, int]:
    """Counters that have changed since ``before``, with their increase."""
    return {name: value - before.get(name, 0) for name, value in tls_stat().items() if value != before.get(name, 0)}
