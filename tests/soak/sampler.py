# SPDX-License-Identifier: Apache-2.0
"""Runs on the VM: a JSON line every two seconds about the sidecar's processes and the kernel's TLS counters.

It writes to a file, not to the network, which the soak cuts. Python's standard library only.
"""

from __future__ import annotations

import json
import os
import sys
import time

CGROUP = "/sys/fs/cgroup/system.slice/ktls-sidecar.service/cgroup.procs"
EVERY_S = 2.0
PORT = 8443


def sample() -> dict[str, object]:
    """Look once."""
    with open(CGROUP, encoding="ascii") as file:
        seen = [found for found in map(process, file.read().split()) if found is not None]
    with open("/proc/net/tls_stat", encoding="ascii") as file:
        tls = {name: int(value) for name, value in (line.split() for line in file)}
    return {
        "time": round(time.time(), 2),
        "processes": len(seen),
        "rss_kib": sum(rss for rss, _ in seen),
        "fds": sum(fds for _, fds in seen),
        "connections": connections(),
        "tls": tls,
    }


def process(pid: str) -> tuple[int, int] | None:
    """Resident memory in KiB and open descriptors; None when it has just ended."""
    try:
        fds = len(os.listdir(f"/proc/{pid}/fd"))
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("VmRSS:")), fds
    except (FileNotFoundError, ProcessLookupError):
        return None


def connections() -> int:
    """Sockets of the sidecar's port in any state but LISTEN and TIME_WAIT."""
    found = 0
    for path in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(path, encoding="ascii") as file:
            for line in file.readlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == PORT and fields[3] not in ("0A", "06"):
                    found += 1
    return found


def main() -> None:
    """Write to the file named by the first argument until killed."""
    with open(sys.argv[1], "a", encoding="ascii") as out:
        while True:
            try:
                print(json.dumps(sample()), file=out, flush=True)
            except (OSError, ValueError) as error:
                print(json.dumps({"time": time.time(), "error": str(error)}), file=out, flush=True)
            time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
