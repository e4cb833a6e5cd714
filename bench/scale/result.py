# SPDX-License-Identifier: Apache-2.0
"""What was measured, as tables and against the targets. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

BEGIN, END = "<!-- bench.scale: begin -->", "<!-- bench.scale: end -->"
NAIVE_MOST, PINGS_MOST, MEMORY_MOST_MIB = 0.25, 1.5, 1536.0
OFF_CPU_MOST_MS, OFF_WALL_MOST, FLAT_MOST = 20.0, 1.3, 0.10

Result = Mapping[str, Any]


def median(rows: Sequence[Mapping[str, Any]], way: str, hosts: int, key: str) -> float | None:
    """Median over the rounds; None: it was not measured. ``way`` may be the beginning of a name."""
    values = [row[key] for row in rows if row["way"].startswith(way) and row["hosts"] == hosts]
    return statistics.median(values) if values else None


def targets(found: Result) -> list[dict[str, Any]]:
    """Each target that the measurements speak of: its words, what was found, whether it is met."""
    said: list[dict[str, Any]] = []

    def say(text: str, value: float | None, most: float, unit: str = "") -> None:
        if value is not None:
            said.append({"text": text, "value": value, "most": most, "unit": unit, "met": value <= most})

    rows, offs = found["rollouts"], found["offs"]
    for over, words in (("", ""), ("ssh ", " over SSH")):
        sizes = sorted({row["hosts"] for row in rows if row["way"] == f"{over}rollout"})
        for hosts in sizes[-1:]:
            what = f"rollout of {hosts:,} hosts{words}"
            for key, name in (("cpu_s", "CPU"), ("wall_s", "wall time")):
                ours = median(rows, f"{over}rollout", hosts, key)
                by_naive = _ratio(ours, median(rows, f"{over}naive", hosts, key))
                say(f"{what}, {name}, by the naive playbook's", by_naive, NAIVE_MOST)
                by_pings = _ratio(ours, median(rows, f"{over}pings", hosts, key))
                say(f"{what}, {name}, by that of three pings", by_pings, PINGS_MOST)
            say(f"{what}, memory", median(rows, f"{over}rollout", hosts, "memory_mib"), MEMORY_MOST_MIB, " MiB")
        if len(sizes) > 1:
            each = [(median(rows, f"{over}rollout", hosts, "cpu_s") or 0.0) / hosts for hosts in (sizes[0], sizes[-1])]
            what = f"rollout{words}, CPU a host: growth from {sizes[0]:,} to {sizes[-1]:,} hosts"
            say(what, each[1] / each[0] - 1, FLAT_MOST)
    sizes = sorted({row["hosts"] for row in offs})
    for hosts in sizes[-1:]:
        cpu = median(offs, "ktls off", hosts, "cpu_s")
        say(f"off of {hosts:,} hosts, CPU a host", 1000 * cpu / hosts if cpu else None, OFF_CPU_MOST_MS, " ms")
        ours, plain = (median(offs, way, hosts, "wall_s") for way in ("ktls off", "plain ssh"))
        say(f"off of {hosts:,} hosts, wall time, by the best plain parallel ssh", _ratio(ours, plain), OFF_WALL_MOST)
    if len(sizes) > 1:
        each = [(median(offs, "ktls off", hosts, "cpu_s") or 0.0) / hosts for hosts in (sizes[0], sizes[-1])]
        say(f"off, CPU a host: growth from {sizes[0]:,} to {sizes[-1]:,} hosts", each[1] / each[0] - 1, FLAT_MOST)
    return said


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one is not None and other else None


def table(found: Result) -> str:
    """All of it as Markdown."""
    lines = ["| | hosts | wall, s | CPU, s | CPU a host, ms | memory, MiB |", "|---|---|---|---|---|---|"]
    names = {"rollout": "rollout, tx", "naive": "naive playbook", "pings": "three pings"}
    names |= {f"ssh {way}": f"{name}, over SSH" for way, name in names.items()}
    for rows in (found["rollouts"], found["offs"]):
        ways = list(dict.fromkeys(row["way"] for row in rows if not row["way"].startswith("trial")))
        for way in ways:
            for hosts in sorted({row["hosts"] for row in rows if row["way"] == way}):
                wall, cpu, memory = (median(rows, way, hosts, key) or 0.0 for key in ("wall_s", "cpu_s", "memory_mib"))
                name = names.get(way, way)
                lines.append(
                    f"| {name} | {hosts:,} | {wall:.1f} | {cpu:.1f} | {1000 * cpu / hosts:.1f} | {memory:.0f} |"
                )
    lines += ["", "| target | at most | measured | |", "|---|---|---|---|"]
    for one in targets(found):
        digits = ".0f" if one["unit"] == " MiB" else ".1f" if one["unit"] else ".2f"
        verdict = "met" if one["met"] else "**NOT met**"
        lines.append(
            f"| {one['text']} | {one['most']:g}{one['unit']} | {one['value']:{digits}}{one['unit']} | {verdict} |"
        )
    known = found["machine"]
    parts = [f"{known['CPUs']} CPUs ({known.get('CPU', 'unknown')})", known.get("memory", ""), known.get("system", "")]
    parts += [f"Linux {known['kernel']}", known["Python"]]
    lines += [
        "",
        f"{', '.join(part for part in parts if part)}; load average before {found['load_before']:.1f}; {found['waves']}"
        f" waves, {found['forks']} forks, {found['soak_s']:g} s of soak in each wave; {found['date']}.",
    ]
    return "\n".join(lines) + "\n"


def merged(parts: Sequence[Result]) -> dict[str, Any]:
    """Results of several runs on one machine as one; what is said of the machine is the first one's."""
    rows = {name: [row for part in parts for row in part[name]] for name in ("rollouts", "offs")}
    return {**parts[0], **rows, "load_before": max(part["load_before"] for part in parts)}


def into(document: str, text: str) -> str:
    """Return ``document`` with ``text`` between its two marks. Raises ValueError if they are not there."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{text}{END}{after}"
