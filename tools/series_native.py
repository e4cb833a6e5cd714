# SPDX-License-Identifier: Apache-2.0
"""Record the sidecar on this machine under steady load, in userspace TLS: real noise for the judge's tests.

``python -m tools.series_native --minutes 10``. No kernel TLS takes part; see ``series_record.py`` for a lab host.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.authority import Authority
from tests.conformance.harness import Native, running

_PERIOD_S, _PAUSE_S = 5.0, 0.25
_FILES = {"small": 10_000, "medium": 1_000_000, "large": 8_000_000}


def main() -> int:
    """:returns: 0 when the file was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--output", type=Path, default=Path("tests/fixtures/judge/native-userspace.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / "root").mkdir()
        for name, size in _FILES.items():
            (place / "root" / name).write_bytes(os.urandom(size))
        authority = Authority(place)
        pair = authority.issue("server", ("localhost",))
        with running(place / "run", place / "root", pair, authority.path) as native:
            stop = threading.Event()
            client = threading.Thread(target=_load, args=(native, authority.path, stop), daemon=True)
            client.start()
            series = _follow(native, authority.path, 60 * arguments.minutes)
            stop.set()
            client.join(20)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps({"series": [series]}, separators=(",", ":")) + "\n")
    return 0


def _curl(native: Native, ca: Path, *names: str) -> list[str]:
    command = ["curl", "--silent", "--max-time", "20", "--noproxy", "*", "--cacert", str(ca), "-w", "%{time_total}\n"]
    for name in names:
        command += ["-o", os.devnull, f"https://localhost:{native.port}/{name}"]
    return command


def _load(native: Native, ca: Path, stop: threading.Event) -> None:
    while not stop.is_set():
        subprocess.run(_curl(native, ca, *_FILES), capture_output=True, check=False)
        stop.wait(_PAUSE_S)


def _follow(native: Native, ca: Path, seconds: float) -> dict[str, Any]:
    """One sample each period, as an agent keeps them."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("at_s", "seconds", "cpu_s", "sent", "ktls", "connections", "errors", "probe_s")
    }
    begin = time.monotonic()
    before, before_s, before_cpu = native.status(), begin, _cpu_s(native.pid)
    while time.monotonic() - begin < seconds:
        time.sleep(_PERIOD_S)
        probe = subprocess.run(_curl(native, ca, "medium"), capture_output=True, text=True, check=False)
        now, now_s, now_cpu = native.status(), time.monotonic(), _cpu_s(native.pid)
        columns["at_s"].append(round(1000 + now_s - begin, 3))
        columns["seconds"].append(round(now_s - before_s, 3))
        columns["cpu_s"].append(round(now_cpu - before_cpu, 4))
        columns["sent"].append(_sum(now, "bytes") - _sum(before, "bytes"))
        columns["ktls"].append(0)
        columns["connections"].append(_sum(now, "connections_total") - _sum(before, "connections_total"))
        new = {kind: count - before["errors"].get(kind, 0) for kind, count in now["errors"].items()}
        columns["errors"].append({kind: count for kind, count in new.items() if count})
        columns["probe_s"].append([float(probe.stdout)] if probe.returncode == 0 else [])
        before, before_s, before_cpu = now, now_s, now_cpu
    return {"host": "native", "boot_id": "native", "read_at_s": columns["at_s"][-1] + 1, "samples": columns}


def _sum(status: dict[str, Any], key: str) -> int:
    counts: dict[str, int] = status[key]
    return sum(counts.values())


def _cpu_s(pid: int) -> float:
    """CPU time of a process and its children, living ones too."""
    total = 0.0
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        fields = Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()
        total += sum(int(fields[index]) for index in (11, 12)) / os.sysconf("SC_CLK_TCK")
        waiting += [int(child) for child in Path(f"/proc/{one}/task/{one}/children").read_text().split()]
    return total


if __name__ == "__main__":
    sys.exit(main())
