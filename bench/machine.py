# SPDX-License-Identifier: Apache-2.0
"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def describe(server_cpus: Sequence[int], client_cpus: Sequence[int]) -> dict[str, str]:
    """Return a description, each line with its name; what cannot be found out is left out."""
    found = {
        "CPU": cpu_model(_read("/proc/cpuinfo")),
        "CPUs": f"{len(os.sched_getaffinity(0))}, server on {_list(server_cpus)}, load generator on "
        + ("the same" if list(server_cpus) == list(client_cpus) else _list(client_cpus)),
        "virtual": _output(["systemd-detect-virt"]) or "unknown",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') >> 20} MiB",
        "system": os_name(_read("/etc/os-release")),
        "kernel": platform.release(),
        "congestion control": _read("/proc/sys/net/ipv4/tcp_congestion_control").strip(),
        "OpenSSL": _output(["openssl", "version"]),
        "nginx": _output(["nginx", "-v"]).partition("nginx/")[2],
        "wrk": _output(["wrk", "-v"]).partition(" [")[0],
        "Python": f"{platform.python_implementation()} {sys.version.split()[0]}",
    }
    return {name: value for name, value in found.items() if value}


def cpu_model(cpuinfo: str) -> str:
    """Return the name of the CPU from /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return ""


def os_name(os_release: str) -> str:
    """Return PRETTY_NAME of os-release(5)."""
    for line in os_release.splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip('"')
    return ""


def load_average() -> float:
    """Return the load of the last minute, of the whole machine."""
    return round(os.getloadavg()[0], 2)


def _list(cpus: Sequence[int]) -> str:
    return "CPU " + ", ".join(map(str, cpus))


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _output(command: Sequence[str]) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ((ran.stdout + ran.stderr).strip().splitlines() or [""])[0]
