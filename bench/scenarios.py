# SPDX-License-Identifier: Apache-2.0
"""The scenarios: which load, what is counted, which targets."""

from __future__ import annotations

import contextlib
import resource
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench import checks, generators, proc
from bench.errors import BenchError
from bench.generators import Outcome
from bench.servers import Nginx, Server, Sidecar
from bench.settings import BULK_FILES, SMALL_FILES, TINY_SIZE, Settings
from bench.stage import Stage, bulk_path, small_path
from bench.verdict import Round, Target, judge, medians

Say = Callable[[str], None]

THROUGHPUT = Target("bytes_per_s", "throughput", at_least=1.0)
CPU_PER_BYTE = Target("cpu_ns_per_byte", "server CPU per byte", at_most=1.0)
SMALL_RATE = Target("requests_per_cpu_s", "requests per second and server core", at_least=0.5)
HANDSHAKE_RATE = Target("requests_per_cpu_s", "handshakes per second and server core", at_least=0.7)
IDLE_MEMORY = Target("kib_per_connection", "KiB of memory per idle connection", at_most=40.0, absolute=True)
IDLE_P99 = Target("p99_ms", "p99 with the idle connections over p99 without", at_most=1.1)

TITLES = {
    "bulk-1m": "files of 1 MiB",
    "bulk-16m": "files of 16 MiB",
    "small": "files of 10 KiB, keep-alive",
    "handshake": "full handshakes",
    "idle": "idle connections",
}


@dataclass
class Context:
    """What the scenarios of one run share."""

    settings: Settings
    stage: Stage
    server_cpus: list[int]
    client_cpus: list[int]
    say: Say

    @property
    def shared_cpu(self) -> bool:
        """True when server and load generator run on the same CPUs."""
        return self.server_cpus == self.client_cpus

    @property
    def ktls(self) -> bool:
        """True when the kernel encrypts."""
        return self.settings.mode != "userspace"

    def nginx(self) -> Nginx:
        """Return an nginx that is not started yet."""
        return Nginx(self.stage, self.server_cpus, self.settings.workers, self.ktls)

    def sidecar(self, label: str = "sidecar") -> Sidecar:
        """Return a sidecar that is not started yet."""
        return Sidecar(self.stage, self.server_cpus, self.settings.workers, self.settings.mode, label)


Load = Callable[[Server, int, generators.Window], Outcome]
"""Loads a server for a number of seconds, inside of the window."""


class Window:
    """What the server, this process's ended children and the whole machine did while it was open."""

    def __init__(self, pid: int) -> None:
        """``pid``: the server."""
        self._pid = pid
        self.wall_s = self.server_cpu_s = self.client_cpu_s = self.machine_busy_s = 0.0

    def __enter__(self) -> Window:
        """Open it."""
        self._add(-1)
        return self

    def __exit__(self, *_details: object) -> None:
        """Close it."""
        self._add(1)

    def _add(self, sign: int) -> None:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        self.wall_s += sign * time.monotonic()
        self.server_cpu_s += sign * proc.cpu_seconds(self._pid)
        self.client_cpu_s += sign * (children.ru_utime + children.ru_stime)
        self.machine_busy_s += sign * proc.machine_busy()


def figures(
    outcome: Outcome, server_cpu_s: float, client_cpu_s: float, machine_busy_s: float, wall_s: float, cpus: int
) -> dict[str, float]:
    """Return the metrics of one round. Raises BenchError when the server used no CPU time that can be seen."""
    if server_cpu_s <= 0 or not outcome.requests:
        raise BenchError("the server did nothing in a round; make the rounds longer with --seconds")
    found = {
        "requests_per_s": outcome.requests / outcome.seconds,
        "bytes_per_s": outcome.bytes / outcome.seconds,
        "requests_per_cpu_s": outcome.requests / server_cpu_s,
        "cpu_us_per_request": server_cpu_s / outcome.requests * 1e6,
        "cpu_ns_per_byte": server_cpu_s / outcome.bytes * 1e9,
        "server_busy": server_cpu_s / wall_s,
        "client_busy": client_cpu_s / wall_s,
        "others_busy": max(0.0, machine_busy_s - server_cpu_s - client_cpu_s) / wall_s,
    }
    found["server_busy"] /= cpus
    if outcome.p99_ms is not None:
        found["p99_ms"] = outcome.p99_ms
    return found


def measure(context: Context, server: Server, load: Load, seconds: int) -> dict[str, float]:
    """Load ``server`` for one round and return its metrics. The CPU time of its whole process tree counts."""
    window = Window(server.pid)
    outcome = load(server, seconds, window)
    server.forget_logs()
    client_cpu = window.client_cpu_s if outcome.client_cpu_s is None else outcome.client_cpu_s
    cpus = len(context.server_cpus)
    found = figures(outcome, window.server_cpu_s, client_cpu, window.machine_busy_s, window.wall_s, cpus)
    found["client_busy"] /= len(context.client_cpus)
    return found


def warm_up(context: Context, server: Server, load: Load) -> None:
    """Load ``server`` and forget what came of it."""
    load(server, context.settings.warm_up_s, contextlib.nullcontext())
    server.forget_logs()


def alternate(context: Context, contestants: dict[str, Server], load: Load) -> list[Round]:
    """Warm up, then load the contestants in turn, round after round."""
    for server in contestants.values():
        warm_up(context, server, load)
    rounds = []
    for number in range(1, context.settings.rounds + 1):
        rounds.append(
            {name: measure(context, server, load, context.settings.round_s) for name, server in contestants.items()}
        )
        words = ", ".join(
            f"{name} {found['requests_per_s']:.4g}/s {found['cpu_us_per_request']:.4g} µs"
            for name, found in rounds[-1].items()
        )
        context.say(f"  round {number}: {words}")
    return rounds


def _result(
    context: Context, name: str, rounds: list[Round], base: str, other: str, targets: Sequence[Target], **more: Any
) -> dict[str, Any]:
    return {
        "name": name,
        "title": TITLES[name],
        "contestants": [base, other],
        "rounds": rounds,
        "medians": medians(rounds, (base, other)),
        "judged": judge(rounds, base, other, targets, context.shared_cpu),
        **more,
    }


def _against_nginx(context: Context, name: str, path: str, load: Load, targets: Sequence[Target]) -> dict[str, Any]:
    with context.nginx() as nginx, context.sidecar() as sidecar:
        seen = {server.name: checks.check(server, context.stage, path, context.ktls) for server in (nginx, sidecar)}
        checks.same(seen["nginx"], seen["sidecar"])
        rounds = alternate(context, {"nginx": nginx, "sidecar": sidecar}, load)
    return _result(context, name, rounds, "nginx", "sidecar", targets, connection=seen)


def bulk(context: Context, name: str) -> dict[str, Any]:
    """Large files, one after the other on a few connections."""
    paths = [bulk_path(name, index) for index in range(BULK_FILES[name])]

    files = {path: context.stage.hashes[path] for path in paths}

    def load(server: Server, seconds: int, window: generators.Window) -> Outcome:
        connections, certificate = context.settings.bulk_connections, str(context.stage.certificate)
        return generators.skim(server.port, context.client_cpus, connections, seconds, certificate, files, window)

    return _against_nginx(context, name, paths[0], load, [THROUGHPUT, CPU_PER_BYTE])


def _small_load(context: Context) -> Load:
    def load(server: Server, seconds: int, window: generators.Window) -> Outcome:
        connections = context.settings.small_connections
        with window:
            return generators.wrk(server.port, context.client_cpus, connections, seconds, SMALL_FILES)

    return load


def small(context: Context, name: str) -> dict[str, Any]:
    """Small files over connections that stay open."""
    return _against_nginx(context, name, small_path(0), _small_load(context), [SMALL_RATE])


def handshake(context: Context, name: str) -> dict[str, Any]:
    """A new connection with a full handshake for each request."""
    path = "/tiny.bin"

    def load(server: Server, seconds: int, window: generators.Window) -> Outcome:
        certificate, clients = str(context.stage.certificate), context.settings.handshake_clients
        with window:
            return generators.s_time(server.port, context.client_cpus, clients, seconds, certificate, path, TINY_SIZE)

    return _against_nginx(context, name, path, load, [HANDSHAKE_RATE])


def idle(context: Context, name: str) -> dict[str, Any]:
    """Memory that idle connections cost, and what they do to the latency of others.

    Two sidecars alternate, one with and one without the idle connections; nginx's memory is measured for comparison.
    """
    load = _small_load(context)
    count = context.settings.idle
    with context.nginx() as nginx:
        warm_up(context, nginx, load)
        nginx_kib = _memory_of_idle(context, nginx, count)
    with context.sidecar("free") as free, context.sidecar("loaded") as loaded:
        for server in (free, loaded):
            checks.check(server, context.stage, small_path(0), context.ktls)
            warm_up(context, server, load)
        base = proc.memory(loaded.pid)
        with _held(context, loaded, count) as holder:
            held = proc.memory(loaded.pid)
            rounds = alternate(context, {"without": free, "with": loaded}, load)
            alive = _still_open(holder)
    if alive < count:
        raise BenchError(f"the sidecar closed {count - alive} of {count} idle connections")
    for item in rounds:
        item["with"]["kib_per_connection"] = (held.pss - base.pss) / count
    found = _result(context, name, rounds, "without", "with", [IDLE_MEMORY, IDLE_P99])
    found["idle"] = {
        "connections": count,
        "base_pss_kib": base.pss,
        "held_pss_kib": held.pss,
        "rss_kib_per_connection": (held.rss - base.rss) / count,
        "nginx_pss_kib_per_connection": nginx_kib,
    }
    return found


def _memory_of_idle(context: Context, server: Server, count: int) -> float:
    base = proc.memory(server.pid)
    with _held(context, server, count):
        return (proc.memory(server.pid).pss - base.pss) / count


@contextlib.contextmanager
def _held(context: Context, server: Server, count: int) -> Iterator[subprocess.Popen[str]]:
    """Hold ``count`` idle connections. Raises BenchError: they cannot be made."""
    arguments = ["--port", str(server.port), "--ca", str(context.stage.certificate), "--count", str(count)]
    command = generators.own_client("bench.idle", context.client_cpus, [*arguments, "--path", small_path(0)])
    context.say(f"  opening {count} connections to {server.name}")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stderr is not None and holder.stdin is not None
        try:
            if holder.stdout.readline() != "ready\n":
                raise BenchError(f"{server.name}: {' '.join(holder.stderr.read().split())[-300:]}")
            time.sleep(1.0)  # what a handshake took is given back
            yield holder
        finally:
            holder.kill()


def _still_open(holder: subprocess.Popen[str]) -> int:
    assert holder.stdin is not None and holder.stdout is not None
    holder.stdin.write("count\n")
    holder.stdin.flush()
    answer = holder.stdout.readline()
    if not answer:
        raise BenchError("the idle connections did not all survive: one does not answer any more")
    return int(answer)


RUNNERS: dict[str, Callable[[Context, str], dict[str, Any]]] = {
    "bulk-1m": bulk,
    "bulk-16m": bulk,
    "small": small,
    "handshake": handshake,
    "idle": idle,
}
