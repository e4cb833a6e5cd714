# SPDX-License-Identifier: Apache-2.0
"""Run Molecule scenarios, each on a lab of its own, and print how long each step took.

tests/molecule/run                          all, two at a time
tests/molecule/run ktls_pull upgrade        these
tests/molecule/run --step converge ktls_pull
    one step of Molecule (create, converge, verify, login, destroy ...) on a lab that stays until the step destroy
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests/molecule"
OUTPUT = ROOT / "build/molecule"
#: Those that take longest, so that nothing long is left alone at the end.
FIRST = ("upgrade", "ktls_undeploy", "ktls_service", "ktls_sentinel", "ktls_agent", "ktls_nginx", "ktls_pull")
JOBS = 2
DOWN_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Outcome:
    """What became of one scenario; ``steps`` are seconds by name, as they came."""

    name: str
    passed: bool
    took_s: float
    steps: tuple[tuple[str, float], ...]

    @property
    def line(self) -> str:
        """Return one line for people."""
        steps = ", ".join(f"{name} {seconds:.0f}" for name, seconds in self.steps)
        return f"molecule: {self.name} {'passed' if self.passed else 'FAILED'} in {self.took_s:.0f} s ({steps})"


def scenarios(here: Path = HERE) -> list[str]:
    """Return the names of all scenarios, in the order in which they are best run."""
    found = sorted(path.parent.name for path in here.glob("*/molecule.yml"))
    return sorted(found, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))


def lab_name(scenario: str) -> str:
    """Return the name of the scenario's lab: 1 to 31 of a-z, 0-9 and '-'."""
    return f"molecule-{scenario.replace('_', '-')}"[:31]


def steps(text: str) -> tuple[tuple[str, float], ...]:
    """Return seconds by step, out of what callback ``molecule_runs`` wrote. Pure.

    The same playbook is convergence the first time, and idempotence after that.
    """
    found: list[tuple[str, float]] = []
    for line in text.splitlines():
        run = json.loads(line)
        name = "check" if run["check"] else str(run["playbook"])
        if name == "converge" and any(known == "converge" for known, _ in found):
            name = "idempotence"
        found.append((name, float(run["took_s"])))
    return tuple(found)


def environment(scenario: str, base: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that the scenario's playbooks rely on. Pure."""
    return {
        **base,
        "KTLS_ROOT": str(ROOT),
        "KTLS_LAB": lab_name(scenario),
        "MOLECULE_GLOB": "tests/molecule/*/molecule.yml",
        # Of this run alone: nothing outside the tree is read or written.
        "ANSIBLE_HOME": str(OUTPUT / "ansible"),
        "PATH": f"{Path(sys.executable).parent}:{base.get('PATH', os.defpath)}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def argv(verb: str, scenario: str, more: Sequence[str] = ()) -> list[str]:
    """Return Molecule's command line. Pure."""
    return ["molecule", "--base-config", str(HERE / "config.yml"), verb, "--scenario-name", scenario, *more]


class Runner:
    """Runs scenarios; :meth:`stop` ends those that run."""

    def __init__(self, base: Mapping[str, str] = os.environ) -> None:
        """Run them in ``base`` as environment."""
        self._base = base
        self._lock = threading.Lock()
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped = False

    def run(self, name: str) -> Outcome:
        """Run one scenario from creation to destruction; its output is in a file of its name."""
        began = time.monotonic()
        with self._lock:
            if self._stopped:
                return Outcome(name, False, 0.0, ())
        down(name, self._base)
        forget(name)
        runs = OUTPUT / f"{name}.runs.jsonl"
        runs.unlink(missing_ok=True)
        try:
            with (OUTPUT / f"{name}.log").open("wb") as log:
                child = subprocess.Popen(
                    argv("test", name, ("--destroy", "always")),
                    cwd=ROOT, env=environment(name, self._base), stdin=subprocess.DEVNULL, stdout=log,
                    stderr=subprocess.STDOUT, start_new_session=True,
                )  # fmt: skip
                with self._lock:
                    self._children[name] = child
                status = child.wait()
        finally:
            with self._lock:
                self._children.pop(name, None)
            down(name, self._base)
        text = runs.read_text(encoding="utf-8") if runs.exists() else ""
        return Outcome(name, status == 0, time.monotonic() - began, steps(text))

    def stop(self) -> None:
        """End what runs, each with its children."""
        with self._lock:
            self._stopped = True
            for child in self._children.values():
                os.killpg(child.pid, signal.SIGTERM)


def forget(scenario: str) -> None:
    """Remove what Molecule knows of a run that was ended: it would take the hosts for created, and go on with none."""
    for path in (OUTPUT / "ansible/tmp").glob(f"molecule.*.{scenario}"):
        shutil.rmtree(path)


def down(scenario: str, base: Mapping[str, str] = os.environ) -> None:
    """Take the scenario's lab down, if there is one."""
    command = ["ktls", "lab", "down", "--name", lab_name(scenario)]
    subprocess.run(
        command, cwd=ROOT, env=environment(scenario, base), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        check=False, timeout=DOWN_TIMEOUT_S,
    )  # fmt: skip


def show(outcome: Outcome) -> None:
    """Print what became of it, and of a failed one everything that it said."""
    if not outcome.passed:
        print((OUTPUT / f"{outcome.name}.log").read_text(encoding="utf-8", errors="replace"))
    print(outcome.line, flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="tests/molecule/run", description="Run Molecule scenarios on lab VMs.")
    parser.add_argument("scenario", nargs="*", help="default: all")
    parser.add_argument("--jobs", type=int, default=JOBS, help="how many at a time (default %(default)s)")
    parser.add_argument("--step", metavar="VERB", help="only this step of Molecule; the lab stays")
    parser.add_argument("--list", action="store_true", help="print the names of all scenarios")
    options = parser.parse_args(arguments)
    known: list[str] = scenarios()
    if options.list:
        print("\n".join(known))
        return 0
    unknown = [name for name in options.scenario if name not in known]
    if unknown:
        parser.error(f"no scenario {unknown[0]}: choose of {', '.join(known)}")
    chosen = [name for name in known if name in options.scenario] or known
    OUTPUT.mkdir(parents=True, exist_ok=True)
    if options.step:
        return max(_step(options.step, name) for name in chosen)
    return _all(chosen, max(1, options.jobs))


def _step(verb: str, name: str) -> int:
    return subprocess.run(argv(verb, name), cwd=ROOT, env=environment(name, os.environ), check=False).returncode


def _all(chosen: Sequence[str], jobs: int) -> int:
    runner = Runner()

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    began = time.monotonic()
    failed = []
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        try:
            for outcome in pool.map(runner.run, chosen):
                show(outcome)
                failed += [] if outcome.passed else [outcome.name]
        except KeyboardInterrupt:
            runner.stop()
            raise SystemExit(130) from None
    verdict = f"FAILED: {', '.join(failed)}" if failed else "all passed"
    print(f"molecule: {len(chosen)} scenarios in {time.monotonic() - began:.0f} s, {jobs} at a time: {verdict}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
