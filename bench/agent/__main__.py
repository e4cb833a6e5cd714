# SPDX-License-Identifier: Apache-2.0
"""What the agent costs a host: CPU time and memory of the whole agent and of its helper, beside the real sidecar.

    python -m bench.agent [--connections 2000] [--seconds 300] [--interval 10] [--scrape 15]

The release as it is deployed, by the system's Python; agent, observer (``ktls-diag``) and sidecar in a network
namespace of their own, with TLS clients that hold the connections, ask on some of them each second, and open some anew.
The self-probe, the guards, the audit trail and the metrics run as they are shipped, and the metrics are scraped. What
is missing: systemd, kernel TLS where this kernel has none, and root's one-shot helpers, which only orders start.

Runs as root; nothing outside is touched.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.errors import BenchError
from bench.machine import cpu_model, load_average
from bench.servers import Server, Sidecar
from bench.stage import Stage, stage
from ktls_host import jsonsock, probe_object
from ktls_host.errors import KtlsError
from ktls_host.exchange import exchange

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs" / "evidence.md"
BEGIN, END = "<!-- bench.agent: begin -->\n", "<!-- bench.agent: end -->\n"
INSIDE = "KTLS_BENCH_AGENT"
PYTHON = "/usr/bin/python3"
REQUESTS_A_SECOND = 50
WARM_UP_S = 25.0
TARGET_SHARE, TARGET_MIB = 0.005, 40.0
# Opens the helper's socket as systemd does: descriptor 3, and whose it is.
ACTIVATE = """
import os, socket, sys
path, program = sys.argv[1], sys.argv[2:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(program[0], program)
"""


def main() -> int:
    """Measure, in a namespace of our own."""
    parser = argparse.ArgumentParser(prog="bench.agent")
    parser.add_argument("--connections", type=int, default=2000)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long it is measured (default: %(default)s)")
    parser.add_argument("--interval", type=float, default=10.0, help="evidence.interval_s (default: %(default)s)")
    parser.add_argument("--scrape", type=float, default=15.0, help="seconds between scrapes (default: %(default)s)")
    parser.add_argument("--docs", action="store_true", help=f"write the result into {DOCS.relative_to(ROOT)}")
    arguments = parser.parse_args()
    if INSIDE not in os.environ:
        paths = [str(ROOT / part) for part in ("", "agent", "control", "lab")]
        environment = {**os.environ, INSIDE: "1", "PYTHONPATH": os.pathsep.join([*paths, *sys.path])}
        inside = ["unshare", "--net", "--mount-proc", "--pid", "--fork", "--kill-child", sys.executable]
        return subprocess.run(
            [*inside, "-m", "bench.agent", *sys.argv[1:]], env=environment, cwd=ROOT, check=False
        ).returncode
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    try:
        text = measure(arguments)
    except (BenchError, KtlsError) as error:
        print(f"bench.agent: {error}", file=sys.stderr)
        return 1
    print(text)
    if arguments.docs:
        page = DOCS.read_text(encoding="utf-8")
        DOCS.write_text(re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}{text}{END}", page, flags=re.DOTALL))
    return 0


def measure(arguments: argparse.Namespace) -> str:
    """Return the result as a piece of a page."""
    load = load_average()
    with stage(None) as made, Sidecar(made, sorted(os.sched_getaffinity(0)), 2, "userspace") as sidecar:
        made.root.joinpath(probe_object.PROBE_NAME).write_bytes(probe_object.probe_bytes())
        with running(made, sidecar, arguments) as pids:
            rows = {name: _Use(pid) for name, pid in pids.items()}
            began, scrape_at = time.monotonic(), 0.0
            bytes_scraped = scrapes = 0
            while time.monotonic() - began < arguments.seconds:
                if time.monotonic() >= scrape_at:
                    scrape_at = time.monotonic() + arguments.scrape
                    bytes_scraped += len(_scrape(made))
                    scrapes += 1
                time.sleep(0.5)
            seconds = time.monotonic() - began
            used = {name: use.end() for name, use in rows.items()}
            status = jsonsock.call(str(made.directory / "agent.sock"), {"verb": "status"}, 10)
    evidence = status["evidence"]
    if not evidence["known"] or evidence["connections"] < 0.95 * arguments.connections or not status["probe"]["ok"]:
        raise BenchError(f"the agent saw something else than it should: {json.dumps(status)[:2000]}")
    lines = [
        f"| at {arguments.connections:,} connections | CPU of one core | resident, MiB | private, MiB |",
        "|---|---|---|---|",
    ]
    names = {"agent": "`ktls-agent`", "diag": "`ktls-diag`"}
    for name, (cpu_s, resident, private) in used.items():
        lines.append(f"| {names[name]} | {cpu_s / seconds:.2%} | {resident:.1f} | {private:.1f} |")
    total = [sum(column) for column in zip(*used.values())]
    share = total[0] / seconds
    lines.append(f"| both | {share:.2%} | {total[1]:.1f} | {total[2]:.1f} |")
    met = "met" if share <= TARGET_SHARE and max(row[1] for row in used.values()) <= TARGET_MIB else "**not met**"
    model = cpu_model(Path("/proc/cpuinfo").read_text())
    ended = sum(row["number"] for row in evidence["total"]["ended"].values())
    lines += [
        "",
        f"Target: {TARGET_SHARE:.1%} of one core, {TARGET_MIB:.0f} MiB: {met}. {seconds:.0f} s, evidence every "
        f"{arguments.interval:g} s, {scrapes} scrapes of {bytes_scraped / max(1, scrapes) / 1024:.0f} KiB, "
        f"{REQUESTS_A_SECOND} requests a second, {ended / seconds:.1f} connections a second ended; "
        f"{len(os.sched_getaffinity(0))} CPUs ({model}), Linux {platform.release()}, Python {_python()}; load average "
        f"of the machine {load:.1f} before and {load_average():.1f} after.",
        "",
    ]
    return "\n".join(lines)


class _Use:
    """CPU time of a process, children that it waited for among it, from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._began = self._cpu_s()

    def end(self) -> tuple[float, float, float]:
        """Return CPU seconds, resident and private memory in MiB."""
        text = Path(f"/proc/{self._pid}/smaps_rollup").read_text()
        kib = {name: int(value) for name, value in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)}
        private = kib["Private_Clean"] + kib["Private_Dirty"]
        return self._cpu_s() - self._began, kib["Rss"] / 1024, private / 1024

    def _cpu_s(self) -> float:
        # Nanoseconds, of the threads that live; stat(5) has clock ticks, and those that ended and children.
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def running(made: Stage, sidecar: Server, arguments: argparse.Namespace) -> Iterator[dict[str, int]]:
    """Run agent, helper and clients; give the process ids of the first two."""
    place = made.directory
    release = place / "ktls.pyz"
    build = [sys.executable, str(ROOT / "agent" / "build.py"), "--output", str(release)]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
    for name in ("state", "run"):
        (place / name).mkdir()
    config: dict[str, Any] = {
        "socket": str(place / "agent.sock"),
        "state_dir": str(place / "state"),
        "run_dir": str(place / "run"),
        "sidecar_socket": str(sidecar.prefix / "control.sock"),
        "diag_socket": str(place / "diag.sock"),
        "lease_socket": None, "module_socket": None, "nic_socket": None, "group": None,
        "probe": {
            "host": "127.0.0.1", "port": sidecar.port, "server_name": "localhost", "ca": str(made.certificate),
            "path": f"/{probe_object.PROBE_NAME}",
        },
        "evidence": {"interval_s": arguments.interval},
        "metrics": {"socket": str(place / "metrics.sock")},
    }  # fmt: skip
    path = place / "agent.json"
    path.write_text(json.dumps(config))
    agent = [PYTHON, "-IS", str(release), "agent"]
    activated = [PYTHON, "-IS", "-c", ACTIVATE, config["diag_socket"]]
    hold = [sys.executable, "-m", "bench.agent.clients", str(sidecar.port), str(arguments.connections)]
    hold += [str(REQUESTS_A_SECOND), str(made.certificate)]
    with contextlib.ExitStack() as stack:
        diag = stack.enter_context(_process([*activated, *agent, "diag", "--config", str(path)], stdin=_kmsg()))
        clients = stack.enter_context(_process(hold, stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert clients.stdout is not None
        if clients.stdout.readline().strip() != b"ready":
            raise BenchError("the clients cannot connect; see above")
        served = stack.enter_context(_process([*agent, "serve", "--config", str(path)]))
        time.sleep(WARM_UP_S)
        for process, name in ((diag, "the helper"), (served, "the agent")):
            if process.poll() is not None:
                raise BenchError(f"{name} ended; see above")
        yield {"agent": served.pid, "diag": diag.pid}


def _kmsg() -> int:
    try:
        return os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return subprocess.DEVNULL


@contextlib.contextmanager
def _process(argv: Sequence[str], stdin: int = subprocess.DEVNULL, stdout: int | None = None) -> Iterator[Any]:
    with subprocess.Popen(list(argv), stdin=stdin, stdout=stdout, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def _scrape(made: Stage) -> bytes:
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer: bytes = exchange(str(made.directory / "metrics.sock"), request, 1 << 24, 10.0)
    if b" 200 " not in answer[:20]:
        raise BenchError(f"the agent's metrics cannot be had: {answer[:100]!r}")
    return answer


def _python() -> str:
    done = subprocess.run([PYTHON, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[1]


if __name__ == "__main__":
    sys.exit(main())
