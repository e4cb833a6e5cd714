# SPDX-License-Identifier: Apache-2.0
"""A study as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from .compare import Comparison
from .run import RunResult
from .study import Study, summary


def draw(console: Console, done: Study) -> None:
    """Print tables of what the runs did."""
    setting = done.setting
    plan, fleet = setting.plan, setting.fleet
    what = "; ".join(one.text for one in done.regressions) or "no regression"
    console.print(
        f"plan {plan.id}: {plan.phase} on {fleet.hosts:,} simulated hosts in {fleet.waves} waves, "
        f"noise {setting.noise.name}, method {plan.gates.method}, seed {done.seed}",
        markup=False,
    )
    hit = f", on {done.hit_hosts:,} hosts" if done.regressions else ""
    console.print(f"what is wrong: {what}{hit}", markup=False)
    console.print(_outcomes(done))
    console.print(_waves(done))
    _reasons(console, "without regression", done.without)
    _reasons(console, "with it", done.with_them)
    one = done.load
    console.print(
        f"each flag endpoint: {one.mean:,.0f} requests/s at rest ({one.interval_s:g} s between polls), p99 of seconds "
        f"{one.p99:,.0f}, busiest {one.peak:,}; about {one.cores:.1f} CPUs of nginx, {one.bytes_per_s / 1e6:.1f} MB/s",
        markup=False,
        soft_wrap=True,
    )
    approvals = sum(wave.approve for wave in plan.waves)
    if approvals:
        console.print(f"not in these times: {approvals} approvals by people", markup=False)


def _outcomes(done: Study) -> Table:
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    for name in ("", "without regression", "with it"):
        table.add_column(name, justify="left" if not name else "right")
    sides = [summary(done.without), summary(done.with_them) if done.with_them else None]

    def row(title: str, *cells: str) -> None:
        table.add_row(title, *cells)

    def chance(index: int, *outcomes: str) -> str:
        side = sides[index]
        if side is None:
            return "-"
        share, low, high = side.chance(*outcomes)  # type: ignore[arg-type]
        return f"{share:.1%} [{low:.1%}, {high:.1%}]"

    row("runs", *(str(side.runs) if side else "-" for side in sides))
    row("goes through every wave", chance(0, "completed"), chance(1, "completed"))
    row("stops by its gate (without: a false stop)", chance(0, "stopped"), chance(1, "stopped"))
    row("held for a person, the gate cannot tell", chance(0, "held"), chance(1, "held"))
    row("ends, too many hosts went away", chance(0, "lost"), chance(1, "lost"))
    for key, title in (("median", "hosts touched before it ends, median"), ("p95", "  95th percentile")):
        row(title, *(f"{side.touched[key]:,.0f}" if side and side.touched else "-" for side in sides))
    row(
        "  of them with the regression, mean",
        "-",
        f"{sides[1].hit:,.1f}" if sides[1] and sides[1].hit is not None else "-",
    )
    for key, title in (
        ("completed", "time when it goes through, median"),
        ("ended", "time when it ends early, median"),
    ):
        row(title, *(duration(side.seconds[key]["median"]) if side and key in side.seconds else "-" for side in sides))
    return table


def _waves(done: Study) -> Table:
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    for name in ("wave", "hosts", "of the fleet", "soak", "ends here without", "ends here with", "done after (median)"):
        table.add_column(name, justify="left" if name == "wave" else "right")
    total = done.setting.fleet.hosts
    sum_ = 0
    for number, wave in enumerate(done.setting.plan.waves):
        size = done.setting.fleet.members(number).size
        sum_ += size
        seen = [run.waves[number] for run in done.without + done.with_them if len(run.waves) > number]
        middle = sorted(seen, key=lambda one: one.ended_s)[len(seen) // 2] if seen else None
        table.add_row(
            f"{wave.number} {wave.name}" + (" (approval)" if wave.approve else ""),
            f"{size:,}",
            f"{sum_ / total:.1%}",
            duration(middle.soak_s) if middle else "-",
            _ends(done.without, number),
            _ends(done.with_them, number),
            duration(middle.ended_s) if middle else "-",
        )
    return table


def _ends(runs: Sequence[RunResult], number: int) -> str:
    if not runs:
        return "-"
    count = sum(run.outcome != "completed" and len(run.waves) == number + 1 for run in runs)
    return f"{count / len(runs):.0%}" if count else "·"


def _reasons(console: Console, side: str, runs: Sequence[RunResult]) -> None:
    for why, count in summary(runs).whys[:2] if runs else ():
        console.print(f"{side}, {count} of {len(runs)} ended so: {why}", markup=False, soft_wrap=True)


def compared(console: Console, found: Comparison) -> None:
    """Print what was predicted beside what was real."""
    table = Table(title=None, box=None, pad_edge=False, header_style="bold")
    for name in ("wave", "hosts", "ordering", "soak", "judging", "confirming", "predicted", "real", "off by"):
        table.add_column(name, justify="left" if name == "wave" else "right")

    def pair(parts: tuple[float, float | None]) -> str:
        predicted, real = parts
        return f"{predicted:.1f} / {real:.1f} s" if real is not None else f"{predicted:.1f} / - s"

    for wave in found.waves:
        table.add_row(
            f"{wave.number} {wave.name}",
            f"{wave.hosts:,}",
            pair(wave.ordering),
            pair(wave.soaking),
            pair(wave.judging),
            pair(wave.confirming),
            duration(wave.predicted_s),
            duration(wave.real_s),
            f"{wave.off_by:+.0%}",
        )
    console.print(table)
    console.print(
        f"all waves: predicted {duration(found.predicted_s)}, real {duration(found.real_s)} ({found.off_by:+.0%})",
        markup=False,
    )


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    if minutes < 90:
        return f"{minutes:.0f} min"
    hours = minutes / 60
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"
