# SPDX-License-Identifier: Apache-2.0
"""From the publication of a flag to the last new kTLS connection, over many hosts on this machine.

    PYTHONPATH=agent:control .venv/bin/python -m bench.pull [--hosts 200] [--rounds 10] [--docs]

Needs root (network namespaces), nginx and ssh-keygen. Exit status 0: target met; 1: not; 2: not measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import machine
from bench.errors import BenchError
from bench.pull import result
from bench.pull.network import SERVER_ADDRESS, Network
from ktls_control import flag
from tests.authority import Authority

REPOSITORY = Path(__file__).resolve().parents[2]
FLEET, PORT = "bench", 443
# 200 hosts have 200 disks, and the flag is on none of them.
MEMORY = "/dev/shm"
NGINX = """daemon off; master_process off; worker_processes 1; pid {0}/nginx.pid; error_log {0}/nginx.log;
events {{ worker_connections 1024; }}
http {{ access_log off; client_body_temp_path {0}/t1; proxy_temp_path {0}/t2; fastcgi_temp_path {0}/t3;
  uwsgi_temp_path {0}/t4; scgi_temp_path {0}/t5;
  server {{ listen {1}:{2} ssl; root {0}/www; ssl_certificate {3}; ssl_certificate_key {4}; }} }}
"""


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bench.pull")
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--namespaces", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--period", type=float, default=0.5, help="seconds between two connections to a host")
    parser.add_argument("--rest", type=float, default=20.0, help="seconds at rest, for the cost")
    parser.add_argument("--out", type=Path, default=REPOSITORY / "build/bench/pull.json")
    parser.add_argument("--docs", action="store_true", help="write figures and picture into docs/")
    given = parser.parse_args()
    try:
        if os.geteuid() != 0 or not shutil.which("nginx", path=_path()):
            raise BenchError("it needs root, for network namespaces, and nginx (package nginx-light)")
        with contextlib.ExitStack() as stack:
            found = Fleet(given, stack).measure()
    except BenchError as error:
        print(f"bench.pull: {error}", file=sys.stderr)
        return 2
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(found) + "\n")
    print(result.table(found))
    if given.docs:
        result.picture(found, REPOSITORY / "docs/images/pull.png")
        page = REPOSITORY / "docs/pull.md"
        page.write_text(result.into(page.read_text(), result.table(found)))
    return 0 if result.met(found) else 1


class Fleet:
    """Everything that runs; all of it ends with ``stack``."""

    def __init__(self, given: argparse.Namespace, stack: contextlib.ExitStack) -> None:
        """Start it."""
        self._given = given
        self._load = machine.load_average()
        self._scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ktls-pull-", dir=MEMORY)))
        self._scratch.chmod(0o755)
        network = stack.enter_context(Network(given.namespaces))
        self._key = self._scratch / "key"
        _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self._key))
        self._authority = Authority(self._scratch)
        self._www = self._scratch / "www"
        self._www.mkdir()
        pair = self._authority.issue("server", [SERVER_ADDRESS])
        configuration = self._scratch / "nginx.conf"
        configuration.write_text(NGINX.format(self._scratch, SERVER_ADDRESS, PORT, pair.certificate, pair.key))
        signers = self._scratch / "allowed_signers"
        signers.write_text(f'{FLEET} namespaces="ktls-flag" {self._key.with_suffix(".pub").read_text()}')
        signers.chmod(0o644)
        self.publish("none")
        nginx = ["nginx", "-p", str(self._scratch), "-c", str(configuration)]
        self._nginx = self._start(stack, network.command(network.server, nginx), others=True)
        self.ports: dict[int, Path] = {}
        self._clients: list[subprocess.Popen[str]] = []
        for place, name in enumerate(network.hosts):
            entries = [
                self._entry(number) for number in range(1, given.hosts + 1) if number % given.namespaces == place
            ]
            settings = self._scratch / f"{name}.json"
            settings.write_text(json.dumps({"hosts": entries}))
            self._start(stack, network.command(name, [sys.executable, "-m", "bench.pull.host", str(settings)]))
            ports = [str(entry["port"]) for entry in entries]
            clients = [sys.executable, "-m", "bench.pull.clients", str(given.period), *ports]
            self._clients.append(self._start(stack, network.command(name, clients), others=True))
        self._wait("every fetcher sees the flag", lambda: self._seen("none") == given.hosts, 120)

    def publish(self, state: str) -> tuple[float, float]:
        """Publish; returns the time just before the rename, by CLOCK_MONOTONIC and by the wall clock."""
        body = flag.sign(self._key, FLEET, state, "the benchmark")
        now = time.monotonic(), time.time()
        flag.publish(body, self._www)
        return now

    def measure(self) -> dict[str, Any]:
        """Return everything."""
        cost = self._cost()
        latencies: dict[str, list[float]] = {"flag": [], "last_ktls": [], "first_userspace": [], "gap": []}
        missed = 0
        for number in range(1, self._given.rounds + 1):
            for client in self._clients:
                self._tell(client, "order")
            taken = sum(int(self._answer(client)) for client in self._clients)
            if taken != self._given.hosts:
                raise BenchError(f"only {taken} of {self._given.hosts} hosts took the order; see {self._scratch}")
            for client in self._clients:
                self._tell(client, "run 20")
            time.sleep(2.0 + 2.0 * random.random())  # any phase of the polls
            before, wall = self.publish("off")
            for client in self._clients:
                for port, (last, first, gap) in json.loads(self._answer(client)).items():
                    if first is None:
                        missed += 1
                        continue
                    latencies["last_ktls"].append(max(0.0, (last or before) - before))
                    latencies["first_userspace"].append(first - before)
                    latencies["gap"].append(gap)
                    made = (self.ports[int(port)] / "run/off").lstat().st_mtime
                    latencies["flag"].append(max(0.0, made - wall))
            print(
                f"round {number}: {max(latencies['first_userspace'][-self._given.hosts :]):.2f} s",
                file=sys.stderr,
                flush=True,
            )
            self._reset()
        return {
            "hosts": self._given.hosts,
            "namespaces": self._given.namespaces,
            "rounds": self._given.rounds,
            "missed": missed,
            "period_s": self._given.period,
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "machine": _machine(),
            "load": self._load,
            "cost": cost,
            "summary": {name: result.summary(values) for name, values in latencies.items()},
            "latencies": {name: [round(value, 4) for value in values] for name, values in latencies.items()},
        }

    def _entry(self, number: int) -> dict[str, Any]:
        home = self._scratch / f"host{number}"
        for name in ("run", "lib"):
            (home / name).mkdir(parents=True)
        port = 20000 + number
        self.ports[port] = home
        pull = {
            "fleet": FLEET,
            "endpoints": [f"https://{SERVER_ADDRESS}:{PORT}/flag"],
            "ca": str(self._authority.path),
            "allowed_signers": str(self._scratch / "allowed_signers"),
            "run_flag": str(home / "run/off"),
            "durable_flag": str(home / "lib/off"),
            "agent_socket": str(home / "agent.sock"),
            "status": str(home / "status.json"),
            "owed": str(home / "owed.json"),
        }
        return {"name": f"host{number}", "port": port, "log": str(home / "log"), "pull": pull}

    def _status(self) -> list[dict[str, Any]]:
        found = []
        for home in self.ports.values():
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads((home / "status.json").read_text()))
        return found

    def _seen(self, state: str) -> int:
        return sum(status["state"] == state for status in self._status())

    def _reset(self) -> None:
        self.publish("none")
        self._wait("every fetcher sees none", lambda: self._seen("none") == self._given.hosts, 60)
        for home in self.ports.values():
            for name in ("run/off", "lib/off"):
                (home / name).unlink(missing_ok=True)

    def _cost(self) -> dict[str, float]:
        """Measure at rest: nobody connects, the flag says none."""
        pids = [int(status["pid"]) for status in self._status()]
        nginx = _children(self._nginx.pid)[-1:] or [self._nginx.pid]
        before, polls = sum(map(_cpu_s, pids)), self._polls()
        server, started = sum(map(_cpu_s, nginx)), time.monotonic()
        time.sleep(self._given.rest)
        took, cpu = time.monotonic() - started, sum(map(_cpu_s, pids)) - before
        done = self._polls() - polls
        served = sum(map(_cpu_s, nginx)) - server
        return {
            "polls_per_s": done / took,
            "cpu_s_per_poll": cpu / done,
            "cpu_share": cpu / took / len(pids),
            "server_s_per_poll": served / done,
        }

    def _polls(self) -> int:
        return sum(sum(status["endpoints"][0]["polls"].values()) for status in self._status())

    def _start(self, stack: contextlib.ExitStack, argv: list[str], *, others: bool = False) -> subprocess.Popen[str]:
        """Start a process. ``others``: it stands for other machines, and does not wait for the CPU of the hosts."""
        paths = os.pathsep.join(str(REPOSITORY / name) for name in ("agent", "control", "lab", "."))
        process = subprocess.Popen(
            ["nice", "-n", "-10", *argv] if others else argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": paths, "PATH": _path(), "PYTHONDONTWRITEBYTECODE": "1"},
        )
        stack.callback(_end, process)
        return process

    def _tell(self, client: subprocess.Popen[str], line: str) -> None:
        assert client.stdin is not None
        client.stdin.write(f"{line}\n")
        client.stdin.flush()

    def _answer(self, client: subprocess.Popen[str]) -> str:
        assert client.stdout is not None
        line = client.stdout.readline()
        if not line:
            raise BenchError("a client ended early; see its message above")
        return line

    def _wait(self, what: str, check: Any, limit_s: float) -> None:
        end = time.monotonic() + limit_s
        while not check():
            if time.monotonic() > end:
                raise BenchError(f"not within {limit_s:g} s: {what}")
            time.sleep(0.5)


def _machine() -> str:
    known = machine.describe([], [])
    count = len(os.sched_getaffinity(0))
    parts = [f"{count} CPUs ({known.get('CPU', 'unknown')})", known.get("system", "")]
    parts += [
        f"Linux {known['kernel']}",
        known["Python"],
        f"nginx {known.get('nginx', '')}",
        known.get("OpenSSL", "").partition(" (")[0],
    ]
    return ", ".join(part for part in parts if part)


def _end(process: subprocess.Popen[str]) -> None:
    """End a process, which is a namespace's: `ip netns exec` becomes the command."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


if __name__ == "__main__":
    sys.exit(main())
