# SPDX-License-Identifier: Apache-2.0
"""What it costs to look at many connections: CPU time of a scan by pyroute2, by objects, by rows, and of the helper.

    python -m bench.evidence [--connections 20000] [--cost 2000] [--seconds 60]

Runs as root, in network namespaces of its own: nothing outside is touched, and all connections are closed at the end.
pyroute2 is measured if it can be imported (``pip install pyroute2==0.9.7`` somewhere, and PYTHONPATH).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ktls_agent.evidence.infer import Contexts
from ktls_agent.evidence.ledger import Ledger
from ktls_host import sock_diag
from ktls_host.sock_diag_rows import Dumps

from .peers import CLIENT, SERVER

ROOT = Path(__file__).resolve().parents[2]
FIRST_PORT = 7001
EACH = 9000  # connections a process; the limit of descriptors is often 20,000
INSIDE = "KTLS_BENCH_EVIDENCE"


def main() -> int:
    """Measure, in a namespace of our own."""
    parser = argparse.ArgumentParser(prog="bench.evidence")
    parser.add_argument("--connections", type=int, default=20000)
    parser.add_argument("--cost", type=int, default=2000, help="connections while the helper itself is measured")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the helper is measured")
    arguments = parser.parse_args()
    if INSIDE not in os.environ:
        environment = {**os.environ, INSIDE: "1", "PYTHONPATH": os.pathsep.join([*map(str, _paths()), *sys.path])}
        inside = ["unshare", "--net", sys.executable, "-m", "bench.evidence", *sys.argv[1:]]
        return subprocess.run(inside, env=environment, cwd=ROOT, check=False).returncode
    print(
        f"{_machine()}; Linux {platform.release()}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"
    )
    if arguments.connections:
        with connections(arguments.connections) as servers:
            scans(arguments.connections, servers)
    if arguments.cost:
        with connections(arguments.cost):
            cost(arguments.cost, arguments.seconds)
    return 0


def scans(number: int, servers: list[subprocess.Popen[str]]) -> None:
    """Print CPU time of one look at ``number`` connections, each way."""
    print(f"one look at {number} connections (best of 3, CPU ms: user and system)")
    with contextlib.suppress(ImportError):
        _report("pyroute2, DiagSocket.get_sock_stats", _pyroute2(), number, 1)
    _report("objects, sock_diag.tcp_connections", lambda: len(sock_diag.tcp_connections()), number)
    dumps = Dumps()
    _report("rows, without the books", lambda: sum(map(len, dumps.rows())), number)

    def look(ledger: Ledger) -> int:
        ledger.begin(time.monotonic(), Contexts(), full=True)
        for rows in dumps.rows():
            ledger.dump(rows)
        ledger.end(Contexts())
        ledger.settle()
        return ledger.open

    def anew() -> int:
        return look(Ledger(lambda port, family, source: "bench"))

    ledger = Ledger(lambda port, family, source: "bench")
    look(ledger)
    _report("rows and books, all new", anew, number)
    _report("rows and books, nothing changed", lambda: look(ledger), number)

    def grown() -> int:
        for server in servers:
            _tell(server, "grow")
        return 0

    _report("rows and books, all have grown", lambda: look(ledger), number, prepare=grown)


def cost(number: int, seconds: float) -> None:
    """Print what the helper uses while it is asked every ten seconds."""
    code = (
        "import socket, sys; from ktls_agent import diag\n"
        "listener = socket.socket(fileno=int(sys.argv[1])); diag.serve(8443, listener)"
    )
    path = f"\0ktls-bench-{os.getpid()}"
    from ktls_host import jsonsock

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        argv = [sys.executable, "-IS", "-c", f"import sys; sys.path.insert(0, {str(ROOT / 'agent')!r})\n{code}"]
        helper = subprocess.Popen(
            [*argv, str(listener.fileno())], pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL
        )
        try:
            jsonsock.call(path, {"verb": "evidence"}, 30)
            time.sleep(1)
            began, used = time.monotonic(), _cpu_s(helper.pid)
            while time.monotonic() - began < seconds:
                time.sleep(10)
                jsonsock.call(path, {"verb": "evidence"}, 30)
            passed, used = time.monotonic() - began, _cpu_s(helper.pid) - used
            status = Path(f"/proc/{helper.pid}/status").read_text()
            resident = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
            share = used / passed
            print(f"the helper at {number} connections, asked every 10 s: {int(resident) / 1024:.1f} MiB resident, ")
            print(f"  {used:.3f} s of CPU in {passed:.0f} s: {share:.2%} of one core")
        finally:
            helper.kill()
            helper.wait()


@contextlib.contextmanager
def connections(number: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Hold so many connections between this namespace and another, in processes of a few thousand each."""
    processes: list[subprocess.Popen[str]] = []
    try:
        holder = _start(["unshare", "--net", "sh", "-c", "echo ready; cat"])
        processes.append(holder)
        _ip(f"link set lo up; link add ev0 type veth peer name ev1 netns {holder.pid}")
        _ip(f"addr add {SERVER}/24 dev ev0; link set ev0 up")
        enter = ["nsenter", f"--net=/proc/{holder.pid}/ns/net"]
        _ip(f"addr add {CLIENT}/24 dev ev1; link set ev1 up; link set lo up", enter)
        servers = []
        for index in range(-(-number // EACH)):
            port, share = FIRST_PORT + index, min(EACH, number - index * EACH)
            servers.append(_start([sys.executable, "-m", "bench.evidence.peers", "serve", str(port)]))
            processes.append(servers[-1])
            peer = [*enter, sys.executable, "-m", "bench.evidence.peers", "connect", str(port), str(share)]
            processes.append(_start(peer))
        yield servers
    finally:
        for process in reversed(processes):
            with contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
        for process in processes:
            process.wait(60)
        subprocess.run(["ip", "link", "del", "ev0"], check=False, capture_output=True)


def _start(argv: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise SystemExit(f"bench.evidence: {argv} did not start; see above")
    return process


def _tell(process: subprocess.Popen[str], command: str) -> str:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{command}\n")
    process.stdin.flush()
    return process.stdout.readline()


def _ip(commands: str, enter: list[str] | None = None) -> None:
    for command in commands.split(";"):
        subprocess.run([*(enter or []), "ip", *command.split()], check=True)


def _report(
    what: str, look: Callable[[], int], number: int, times: int = 3, prepare: Callable[[], int] = lambda: 0
) -> None:
    best = float("inf")
    for _ in range(times):
        prepare()
        began = time.process_time()
        found = look()
        best = min(best, time.process_time() - began)
        if found < number:
            raise SystemExit(f"bench.evidence: {what} found {found} of {number} connections")
    print(f"  {what:<40} {best * 1e3:8.1f} ms   {best / number * 1e6:6.2f} us each", flush=True)


def _pyroute2() -> Callable[[], int]:
    from pyroute2 import DiagSocket

    def look() -> int:
        found = 0
        with DiagSocket() as diag:
            diag.bind()
            for family in (socket.AF_INET, socket.AF_INET6):
                found += len(list(diag.get_sock_stats(family=family, states=1 << 1, extensions=1 << 1)))
        return found

    return look


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _paths() -> list[Path]:
    return [ROOT, ROOT / "agent", ROOT / "control", ROOT / "lab"]


def _machine() -> str:
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{len(model)} x {model[0].partition(':')[2].strip() if model else platform.machine()}"


if __name__ == "__main__":
    sys.exit(main())
