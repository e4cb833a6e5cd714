# SPDX-License-Identifier: Apache-2.0
"""What was measured, as numbers, as text and as a picture. Pure but for the files it writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- bench.pull: begin -->", "<!-- bench.pull: end -->"
TARGET_S = 5.0


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` (0 to 1) of ``values`` do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def summary(values: Sequence[float]) -> dict[str, float]:
    """Return the figures of a latency in seconds."""
    shares = {"p50": 0.5, "p90": 0.9, "p99": 0.99}
    found = {name: round(percentile(values, share), 3) for name, share in shares.items()}
    return {"n": len(values), **found, "max": round(max(values), 3)}


def met(result: dict[str, Any]) -> bool:
    """Whether the target is met: no new connection of a host has kTLS after its first one without."""
    return bool(result["summary"]["first_userspace"]["p99"] <= TARGET_S and not result["missed"])


def table(result: dict[str, Any]) -> str:
    """Return the figures as Markdown."""
    rows = {
        "off flag there on the host": "flag",
        "last new connection with kTLS, by clients": "last_ktls",
        "first new connection without, by clients": "first_userspace",
    }
    lines = ["| seconds after the flag's rename | n | p50 | p90 | p99 | max |", "|---|---|---|---|---|---|"]
    for title, key in rows.items():
        one = result["summary"][key]
        lines.append(
            f"| {title} | {one['n']} | {one['p50']:.2f} | {one['p90']:.2f} | {one['p99']:.2f} | {one['max']:.2f} |"
        )
    cost, machine = result["cost"], result["machine"]
    word = "met" if met(result) else "NOT met"
    lines += [
        "",
        f"Target: p99 ≤ {TARGET_S:g} s from the flag's publication to the last new kTLS connection: **{word}**,"
        f" by the last row, which cannot be too early. Clients connected to each host every {result['period_s']:g} s"
        f" (99 % of the gaps below {result['summary']['gap']['p99']:.2f} s).",
        f"{result['hosts']} fetchers in {result['namespaces']} network namespaces, {result['rounds']} publications,"
        f" {result['missed']} hosts missed; {machine}; load average of the"
        f" machine before {result['load']:.1f}; {result['date']}.",
        f"At rest: {cost['polls_per_s']:.0f} polls a second. A fetcher took {1000 * cost['cpu_s_per_poll']:.1f} ms"
        f" of CPU for a poll, all told ({100 * cost['cpu_share']:.2f} % of a core),"
        f" the web server {1000 * cost['server_s_per_poll']:.2f} ms.",
    ]
    return "\n".join(lines) + "\n"


def picture(result: dict[str, Any], path: Path) -> None:
    """Write the histogram."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    values, figures = result["latencies"]["first_userspace"], result["summary"]["first_userspace"]
    figure, axes = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    axes.hist(values, bins=[step / 10 for step in range(int(TARGET_S * 10) + 3)], color="#1565c0", alpha=0.8)
    for name, style in (("p50", ":"), ("p99", "--"), ("max", "-")):
        axes.axvline(figures[name], color="#37474f", linestyle=style, label=f"{name} {figures[name]:.2f} s")
    axes.axvline(TARGET_S, color="#c62828", label=f"target of p99, {TARGET_S:g} s")
    axes.set_xlim(0, TARGET_S + 0.3)
    axes.set_xlabel("seconds from the flag's publication to the first new connection of a host without kTLS")
    axes.set_ylabel("hosts")
    axes.set_title(
        f"Kill switch by pull: {result['hosts']} hosts, {result['rounds']} publications, polls every 2 s ± 25 %"
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def into(document: str, text: str) -> str:
    """Return ``document`` with ``text`` between its two marks. Raises ValueError if they are not there."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{text}{END}{after}"
