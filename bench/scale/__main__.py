# SPDX-License-Identifier: Apache-2.0
"""Measure what a rollout and an off of many hosts cost the control node.

    .venv/bin/python -m bench.scale --hosts 100,300,1000 --waves 10 --naive-hosts 1000 --output build/scale/result.json

Off needs root (namespaces) and an sshd. Exit status 0: targets met; 1: not; 2: not measured.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import machine
from bench.errors import BenchError

from . import offs, result, sshd
from .cost import Cost
from .hosts import ROOT
from .rollouts import WAYS, Job

DOCUMENT = ROOT / "docs/scale.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    argv = list(sys.argv[1:] if argv is None else argv)
    given = _parser().parse_args(argv)
    try:
        if given.table:
            return _say(given, result.merged([json.loads(path.read_text()) for path in given.table]))
        binary = ""
        if "off" in given.only or "ssh" in given.over:
            binary = sshd.find(given.sshd)
            sshd.enter(argv)
        found = _measure(given, binary)
    except BenchError as error:
        print(f"bench.scale: {error}", file=sys.stderr)
        return 2
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(found, indent=1) + "\n")
    return _say(given, found)


def _say(given: argparse.Namespace, found: dict[str, Any]) -> int:
    print(result.table(found))
    if given.docs:
        DOCUMENT.write_text(result.into(DOCUMENT.read_text(), result.table(found)))
    return 0 if all(target["met"] for target in result.targets(found)) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.scale", description=__doc__, formatter_class=_Raw)
    parser.add_argument("--hosts", type=_numbers, default=(100, 300, 1000), help="sizes of fleets (100,300,1000)")
    parser.add_argument("--naive-hosts", type=int, help="size for the naive playbook (default: the largest of --hosts)")
    parser.add_argument("--waves", type=int, default=10, help="waves of a rollout (10)")
    parser.add_argument("--forks", type=int, default=25, help="Ansible's (25)")
    parser.add_argument("--soak", type=float, default=1.0, help="seconds that each wave soaks (1)")
    parser.add_argument("--rounds", type=int, default=1, help="times that each measurement is taken, in turn (1)")
    parser.add_argument("--off-rounds", type=int, default=3, help="so for off (3)")
    parser.add_argument("--parallel", type=_numbers, default=(8, 16, 32, 64), help="of plain ssh; the best one counts")
    parser.add_argument("--only", type=_words, default=("rollout", "naive", "pings", "off"), help="parts, by commas")
    parser.add_argument(
        "--over", type=_connections, default=("local",), help="connections of Ansible: local, ssh, or local,ssh (local)"
    )
    parser.add_argument("--sshd", help="path of sshd")
    parser.add_argument("--timeout", type=float, default=3600, help="seconds for one measurement (3600)")
    parser.add_argument("--output", type=Path, help="all figures as JSON")
    parser.add_argument("--docs", action="store_true", help="put the table into docs/scale.md")
    parser.add_argument(
        "--table", type=Path, nargs="+", metavar="FILE", help="measure nothing: the table of such JSON files together"
    )
    return parser


class _Raw(argparse.RawDescriptionHelpFormatter):
    pass


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split(","))


def _words(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    if set(words) - {"rollout", "naive", "pings", "off"}:
        raise argparse.ArgumentTypeError("parts are rollout, naive, pings and off")
    return words


def _connections(text: str) -> tuple[str, ...]:
    words = tuple(text.split(","))
    if set(words) - {"local", "ssh"}:
        raise argparse.ArgumentTypeError("connections are local and ssh")
    return words


def _measure(given: argparse.Namespace, binary: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {**machine.describe([], []), "CPUs": str(len(os.sched_getaffinity(0)))},
        "load_before": machine.load_average(),
        "waves": given.waves,
        "forks": given.forks,
        "soak_s": given.soak,
        "rollouts": [],
        "offs": [],
    }
    naive = given.naive_hosts or max(given.hosts)
    for over in given.over:
        for size in sorted({*given.hosts, *((naive,) if "naive" in given.only else ())}):
            job = Job(size, given.waves, given.forks, given.soak, given.timeout, binary if over == "ssh" else "")
            ways = ("rollout", "pings") if size in given.hosts else ()
            ways = (*ways, "naive") if size == naive else ways
            for number, way in itertools.product(range(given.rounds), ways):
                if way in given.only:
                    cost = _fresh(lambda at, w=way, j=job: WAYS[w](j, at))
                    _one(found["rollouts"], f"ssh {way}" if over == "ssh" else way, size, number, cost)
    for size in given.hosts if "off" in given.only else ():
        _fresh(lambda at, s=size: _offs(found["offs"], given, s, at, binary))
    return found


def _offs(into: list[dict[str, Any]], given: argparse.Namespace, size: int, at: Path, binary: str) -> Cost | None:
    with offs.reachable(at, size, binary, given.timeout) as reached:
        # Which of them is best is settled once, before the rounds.
        trials = {parallel: offs.plain(reached, parallel) for parallel in given.parallel}
        best = min(trials, key=lambda parallel: trials[parallel].wall_s)
        for parallel, cost in trials.items():
            _one(into, f"trial -P {parallel}", size, 0, cost)
        for number in range(given.off_rounds):
            _one(into, "ktls off", size, number, offs.ktls(reached))
            _one(into, f"plain ssh -P {best}", size, number, offs.plain(reached, best))
    return None


def _fresh(work: Any) -> Any:
    """Call ``work`` with an empty directory; it stays where something went wrong."""
    # Paths of Unix sockets are short.
    at = Path(tempfile.mkdtemp(prefix="ktls-scale-", dir="/tmp"))
    done = work(at)
    shutil.rmtree(at)
    return done


def _one(into: list[dict[str, Any]], way: str, hosts: int, number: int, cost: Cost) -> None:
    into.append({"way": way, "hosts": hosts, "round": number, **asdict(cost)})
    print(
        f"{way}, {hosts} hosts: wall {cost.wall_s:.1f} s, CPU {cost.cpu_s:.1f} s"
        f" ({1000 * cost.cpu_s / hosts:.1f} ms a host), memory {cost.memory_mib:.0f} MiB",
        file=sys.stderr,
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
