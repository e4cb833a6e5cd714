# SPDX-License-Identifier: Apache-2.0
"""Measure the judge's error rates and write them down: ``python -m ktls_control.judge.calibrate`` (some minutes).

Seeds are fixed: the same code gives the same tables. The unit tests run a small part of it each time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

from ..errors import ControlError
from ..files import write
from ..plan.model import Soak
from . import power, record, regimes, trial
from .model import HostSeries
from .regimes import REGIMES, Fleet, Harm, Noise

#: Name of a wave's form, and the form.
SHAPES: Mapping[str, Fleet] = {
    "1 host, switchback": Fleet(wave=1),
    "4 hosts, switchback": Fleet(wave=4),
    "4 hosts against 12, difference": Fleet(wave=4, others=12, method="difference"),
}
LONG: Mapping[str, Fleet] = {name: replace(fleet, soak_s=1800.0) for name, fleet in SHAPES.items()}
#: Long soaks, for the error test.
WATCHED: Mapping[str, Fleet] = {
    f"2 hosts, {what}": Fleet(2, others, 7200.0, 10_800.0, 30.0, method="difference")
    for what, others in (("8 of later waves", 8), ("their own past", 0))
}
#: Harm that a table row is about.
HARMS: Mapping[str, Harm] = {
    "none": Harm(),
    "CPU per byte +3 % (the margin)": Harm(cpu=1.03),
    "CPU per byte +5 %": Harm(cpu=1.05),
    "CPU per byte +10 %": Harm(cpu=1.10),
    "CPU per byte +20 %": Harm(cpu=1.20),
    "latency +10 %": Harm(latency=1.10),
    "latency +20 %": Harm(latency=1.20),
    "throughput -10 %": Harm(throughput=0.90),
    "0.1 % of connections reset": Harm(failures=0.001),
    "1 % of connections reset": Harm(failures=0.01),
}
SICK: Mapping[str, Harm] = {
    "one of 20 hosts: CPU per byte +20 %": Harm(cpu=1.20, hosts=1),
    "one of 20 hosts: 0.5 % of connections reset": Harm(failures=0.005, hosts=1),
}
_RECORDED_HEAD = """# How often the judge is wrong on what was recorded

Written by `python -m ktls_control.judge.calibrate --recorded`; do not edit. Recordings (`tests/fixtures/judge`, made by
`tools/series_native.py` and `tools/series_record.py`) are of real sidecars under steady load, in userspace TLS, on a
machine that many others kept busy; `native` is one without kernel TLS. Each is cut into blocks from another second on
each time, and each pair is dealt anew: kTLS had no part in them, so a wave that fails is a false alarm. The splits of
one recording are not independent of each other, so the bound is only a guide.
"""
_TWENTY = Fleet(wave=20)
_CURVE = (1.0, 1.01, 1.02, 1.03, 1.04, 1.05, 1.07, 1.10, 1.15, 1.20)
RECORDED = Path("tests/fixtures/judge")


def main(argv: Sequence[str] | None = None) -> int:
    """:returns: 0; 1 when an error rate is not what the plan's alpha says."""
    parser = argparse.ArgumentParser(prog="python -m ktls_control.judge.calibrate", description=__doc__)
    parser.add_argument("--fleets", type=int, default=1000, help="waves for each row (default: %(default)s)")
    parser.add_argument("--docs", type=Path, default=Path("docs"), help="where tables and pictures go")
    parser.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    parser.add_argument("--recorded", action="store_true", help="judge the lab's recorded baselines instead")
    arguments = parser.parse_args(argv)
    try:
        if arguments.recorded:
            return _recorded(arguments.fleets, arguments.docs)
        return _run(arguments.fleets, arguments.docs, arguments.jobs)
    except ControlError as error:
        print(f"calibrate: {error.message}", file=sys.stderr)
        return 1


def _run(fleets: int, docs: Path, jobs: int) -> int:
    from . import pictures

    with ProcessPoolExecutor(jobs) as pool:
        many = {1: fleets}
        once = {(name, shape): pool.submit(trial.once, fleet, noise, Harm(), many.get(fleet.wave, fleets // 2), 1)
                for name, noise in REGIMES.items() for shape, fleet in SHAPES.items()}  # fmt: skip
        watched = {(name, shape): pool.submit(trial.watched, fleet, noise, Harm(), max(fleets // 5, 1), 2, 600.0)
                   for name, noise in REGIMES.items() for shape, fleet in LONG.items()}  # fmt: skip
        tables = [pool.submit(table, fleets) for table in (_failing, _power, _promises)]
        drawn = {shape: pool.submit(_curve, shape, fleets) for shape in SHAPES}
        quiet = {cell: found.result() for cell, found in once.items()}
        _say("A/A at the end of the soak: done")
        always = {cell: found.result() for cell, found in watched.items()}
        _say("A/A watched: done")
        parts = [
            _alarms("A/A: judged once, at the end of a soak of 10 minutes", quiet),
            _alarms("A/A: watched all the time, soak of 10 to 30 minutes, stopped at the first verdict", always),
            *(table.result() for table in tables),
        ]
        curves = {shape: found.result() for shape, found in drawn.items()}
    images = docs / "images"
    images.mkdir(parents=True, exist_ok=True)
    pictures.alarms(images / "judge-false-alarms.png", {"once": quiet, "watched": always})
    pictures.uniform(images / "judge-p-values.png", quiet)
    pictures.power(images / "judge-power.png", _CURVE, curves)
    write(docs / "judge-error-rates.md", _page(fleets, parts))
    worst = max(trial.upper(one.failed, one.total) for one in [*quiet.values(), *always.values()])
    _say(f"highest upper bound of a false-alarm rate: {worst:.1%}")
    return 0 if worst <= 0.06 else 1


def _curve(shape: str, fleets: int) -> list[trial.Count]:
    """Verdicts by harm to CPU time per byte."""
    return [trial.once(SHAPES[shape], REGIMES["clean"], Harm(cpu=cpu), max(fleets // 10, 1), 5) for cpu in _CURVE]


def _recorded(fleets: int, docs: Path) -> int:
    """The lab's baselines: noise that nobody thought up."""
    counts = {
        (path.stem, "1 host, switchback dealt anew"): trial.resplit(_series(path), 10.0, 0.0, fleets, 3)
        for path in sorted(RECORDED.glob("*.json"))
    }
    if not counts:
        raise ControlError(
            "no_series", f"{RECORDED}: no recordings; make them with tools/series_native.py or tools/series_record.py"
        )
    title = "A/A: recorded, dealt anew as switchbacks with blocks of 10 s"
    write(docs / "judge-recorded.md", _RECORDED_HEAD + "\n" + _alarms(title, counts))
    worst = max(trial.upper(one.failed, one.total) for one in counts.values())
    _say(f"highest upper bound of a false-alarm rate: {worst:.1%}")
    return 0 if worst <= 0.06 else 1


def _series(path: Path) -> list[HostSeries]:
    return list(record.load(path).series)


def _say(text: str) -> None:
    print(f"calibrate: {text}", flush=True)


def _page(fleets: int, parts: Sequence[str]) -> str:
    head = f"""# How often the judge is wrong

Written by `python -m ktls_control.judge.calibrate --fleets {fleets}`; do not edit. What the words mean is in
[judge.md](judge.md), recorded baselines in [judge-recorded.md](judge-recorded.md). Fleets here are simulated
(`judge/regimes.py`): blocks of 30 s, washout of 5 s, margins 3 % (CPU) and 5 %, alpha 5 %. A false alarm is a wave that
fails though nothing is wrong. The bound is the upper 95 % confidence bound of its rate (Clopper and Pearson).

![false alarms](images/judge-false-alarms.png)
![p-values](images/judge-p-values.png)
![power](images/judge-power.png)
"""
    return head + "\n" + "\n".join(parts)


def _alarms(title: str, counts: Mapping[tuple[str, str], trial.Count]) -> str:
    rows = [f"## {title}\n", "| noise | wave | waves | false alarms | bound | passed | p uniform (KS) |",
            "|---|---|--:|--:|--:|--:|---|"]  # fmt: skip
    for (name, shape), count in counts.items():
        tests = (
            ", ".join(f"{metric} {trial.uniform(p):.2f}" for metric, p in count.p.items()) if "once" in title else ""
        )
        if "recorded" in title:
            tests = "not independent"
        rows.append(
            f"| {name} | {shape} | {count.total} | {count.failed / count.total:.1%} | "
            f"{trial.upper(count.failed, count.total):.1%} | {count.passed / count.total:.0%} | {tests} |"
        )
    return "\n".join(rows) + "\n"


def _failing(fleets: int) -> str:
    rows = ["## Failures alone: the E-value watched for three hours, two hours of baseline\n",
            "| failures without kTLS | wave | false alarms | bound | 0.1 % of connections reset: found |",
            "|---|---|--:|--:|--:|"]  # fmt: skip
    for name, noise in regimes.FAILING.items():
        for shape, fleet in WATCHED.items():
            quiet = trial.failures(fleet, noise, Harm(), max(fleets // 4, 1), 6)
            found = trial.failures(fleet, noise, Harm(failures=0.001), max(fleets // 40, 1), 6)
            rows.append(
                f"| {name} | {shape} | {quiet.failed / quiet.total:.1%} "
                f"| {trial.upper(quiet.failed, quiet.total):.1%} | "
                f"{found.failed / found.total:.0%} |"
            )
    return "\n".join(rows) + "\n"


def _power(fleets: int) -> str:
    rows = ["## Harm: how often the wave is stopped, passes, or cannot be told (soak of 10 minutes)\n",
            "| harm | noise | wave | stopped | cannot tell | passed |", "|---|---|---|--:|--:|--:|"]  # fmt: skip
    count = max(fleets // 10, 1)
    cells = [(harm, noise, shape, fleet) for harm in HARMS for noise in ("clean", "all at once")
             for shape, fleet in SHAPES.items()]  # fmt: skip
    for harm, noise, shape, fleet in cells:
        rows.append(_row(harm, noise, shape, trial.once(fleet, REGIMES[noise], HARMS[harm], count, 4)))
    for harm in SICK:
        for noise in ("clean", "all at once"):
            found = trial.once(_TWENTY, REGIMES[noise], SICK[harm], max(count // 2, 1), 4, 50)
            rows.append(_row(harm, noise, "20 hosts, switchback", found))
    return "\n".join(rows) + "\n"


def _row(harm: str, noise: str, shape: str, count: trial.Count) -> str:
    shares = (count.failed, count.unclear, count.passed)
    return f"| {harm} | {noise} | {shape} | " + " | ".join(f"{one / count.total:.0%}" for one in shares) + " |"


def _promises(fleets: int) -> str:
    """What ``ktls plan`` says can be detected, against what is detected then."""
    rows = ["## What a plan promises: harm of the size that `detectable` names is stopped in 80 % of the waves\n",
            "| noise | wave | metric | detectable | stopped by it |", "|---|---|---|--:|--:|"]  # fmt: skip
    for name in ("clean", "autocorrelated", "all at once"):
        for shape, fleet in SHAPES.items():
            rows += [promise(name, shape, fleet, metric, max(fleets // 10, 1)) for metric in ("cpu", "latency")]
    return "\n".join(rows) + "\n"


def promise(name: str, shape: str, fleet: Fleet, metric: str, count: int) -> str:
    """A row of that table."""
    effect, stopped = kept(REGIMES[name], fleet, metric, count)
    if effect is None or stopped is None:
        return f"| {name} | {shape} | {metric} | none | |"
    return f"| {name} | {shape} | {metric} | {effect:+.1%} | {stopped:.0%} |"


def kept(noise: Noise, fleet: Fleet, metric: str, count: int) -> tuple[float | None, float | None]:
    """Harm that a long baseline says is detectable, and how often such harm stops a wave."""
    gates, soak = trial.gates_of(fleet), Soak(fleet.soak_s, fleet.soak_s, min_bytes=0)
    past = replace(fleet, wave=20, others=0, baseline_s=7200.0, soak_s=fleet.period_s)
    series, _ = regimes.draw(past, noise, Harm(), 7).series(0)
    effect = power.detectable(gates, soak, series, fleet.wave, fleet.others)[metric]
    if effect is None:
        return None, None
    harm = {"cpu": Harm(cpu=1 + effect), "latency": Harm(latency=1 + effect)}[metric]
    found = trial.once(fleet, noise, harm, count, 8)
    return effect, found.failed / found.total


if __name__ == "__main__":
    sys.exit(main())
