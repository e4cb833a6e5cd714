# SPDX-License-Identifier: Apache-2.0
"""The command ``bench/run``."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import docs, tools
from bench.errors import BenchError
from bench.settings import MODES, SCENARIOS, Settings
from bench.table import render
from bench.verdict import all_met

REPOSITORY = Path(__file__).resolve().parent.parent
BUILD = REPOSITORY / "build" / "bench"
PLACES = ("native", "vm")
_NATIVE = Settings()
# An emulated CPU is some 20 times slower: longer rounds, fewer of them.
_VM = Settings(mode="tx", rounds=5, round_s=10, warm_up_s=5, bulk_connections=2)


def main(argv: Sequence[str] | None = None) -> int:
    """Return 0: every target met; 1: at least one is not, or is unclear; 2: it could not be measured."""
    given = _parse(argv)
    try:
        if given.docs:
            docs.write(given.docs)
            return 0
        result = _measure(given.place, _settings(given))
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 2
    result["place"] = given.place
    _keep(result, given.out)
    return 0 if all_met(result["scenarios"]) else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/run",
        description="Measure the sidecar against nginx. Exit status: 0 all targets met, 1 not, 2 not measured.",
    )
    parser.add_argument("--place", choices=PLACES, default="native", help="here, or in one lab VM (default: native)")
    parser.add_argument("--mode", choices=MODES, help="datapath (default: userspace natively, tx in the VM)")
    parser.add_argument("--only", choices=SCENARIOS, action="append", help="one scenario; may be given again")
    parser.add_argument("--rounds", type=_positive, help="rounds of each scenario, each of both servers")
    parser.add_argument("--seconds", type=_positive, help="length of a round")
    parser.add_argument("--workers", type=_positive, default=1, help="workers and CPUs of each server (default: 1)")
    parser.add_argument("--idle", type=_positive, help="number of idle connections (default: 5000)")
    parser.add_argument("--quick", action="store_true", help="3 short rounds: a look, not a result")
    parser.add_argument("--out", type=Path, help="JSON file for the result (default: build/bench/PLACE-MODE.json)")
    parser.add_argument(
        "--docs",
        type=Path,
        nargs="+",
        metavar="JSON",
        help="measure nothing: put these results into docs/benchmarks.md",
    )
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(text)
    return value


def _settings(given: argparse.Namespace) -> Settings:
    base = _VM if given.place == "vm" else _NATIVE
    quick = {"rounds": 3, "round_s": max(2, base.round_s // 2), "warm_up_s": 1} if given.quick else {}
    wanted = {"mode": given.mode, "rounds": given.rounds, "round_s": given.seconds, "idle": given.idle}
    wanted["only"] = tuple(name for name in SCENARIOS if name in given.only) if given.only else None
    chosen = {name: value for name, value in wanted.items() if value is not None}
    return Settings(**{**base.to_json(), **quick, **chosen, "workers": given.workers, "revision": revision()})


def revision() -> str:
    """Return the commit that is measured; with ``+`` when files differ from it."""
    try:
        commit = subprocess.run(
            ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty=+", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return commit.stdout.strip()


def _measure(place: str, settings: Settings) -> dict[str, Any]:
    if place == "vm":
        from bench import vm

        return vm.measure(settings)
    tools.require()
    return _native(settings)


def _native(settings: Settings) -> dict[str, Any]:
    if os.geteuid() == 0:
        settings = Settings.from_json({**settings.to_json(), "server_user": "nobody"})
    command = [sys.executable, "-m", "bench.measure", json.dumps(settings.to_json())]
    # A network of its own: no other traffic, and settings that are not the machine's.
    apart = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--net", "--map-root-user"]
    if subprocess.run([*apart, "true"], capture_output=True, check=False).returncode == 0:
        command = [*apart, *command, "--own-network"]
    else:
        print("bench: no network namespace to be had, measuring on the machine's own loopback", file=sys.stderr)
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=REPOSITORY)
    if ran.returncode != 0:
        raise BenchError("nothing was measured, see above")
    return dict(json.loads(ran.stdout))


def _keep(result: dict[str, Any], out: Path | None) -> None:
    """Write the JSON file, the table and the picture; print the table."""
    settings = result["settings"]
    partial = "" if len(settings["only"]) == len(SCENARIOS) else "-" + "-".join(settings["only"])
    path = out or BUILD / f"{result['place']}-{settings['mode']}{partial}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    table = render(result)
    path.with_suffix(".md").write_text(table, encoding="utf-8")
    print(table)
    shown = [str(path), str(path.with_suffix(".md"))]
    try:
        from bench import picture
    except ImportError as error:  # the figures are there without it
        print(f"bench: no picture ({error}); 'make prepare' installs what it needs", file=sys.stderr)
    else:
        picture.draw(result, path.with_suffix(".png"))
        shown.append(str(path.with_suffix(".png")))
    if shutil.which("git"):
        shown = [os.path.relpath(name) for name in shown]
    print("kept:", ", ".join(shown))
