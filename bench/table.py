# SPDX-License-Identifier: Apache-2.0
"""Results as Markdown tables. Pure."""

from __future__ import annotations

from typing import Any

PLACES = {"native": "natively", "vm": "in a lab VM"}
_BUSY_OTHERS = 0.15
_UNCLEAR = "`unclear`: by the clock, while the load generator or other processes took the CPU that the server needed"


def render(result: dict[str, Any]) -> str:
    """Return the tables, and what they were measured on and how."""
    settings = result["settings"]
    lines = [
        f"Measured {PLACES[result['place']]}, mode `{settings['mode']}`, revision {settings['revision']},"
        f" {result['started']}: {settings['rounds']} rounds of {settings['round_s']} s for each server in turn,"
        f" {settings['workers']} worker{'s' if settings['workers'] > 1 else ''} each.",
        "",
        "| Scenario | Measure | Ratio (lowest to highest) | Target | |",
        "|---|---|---|---|---|",
    ]
    for scenario in result["scenarios"]:
        for item in scenario["judged"]:
            spread = f"**{number(item['median'])}** ({number(item['low'])} to {number(item['high'])})"
            if item["low"] == item["high"]:
                spread = f"**{number(item['median'])}**"
            lines.append(f"| {scenario['title']} | {item['text']} | {spread} | {item['bound']} | {item['verdict']} |")
    lines += [
        "",
        "| Scenario | Server | Requests/s | MiB/s | Server CPU a request | Server busy | Client busy | p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for scenario in result["scenarios"]:
        for name, found in scenario["medians"].items():
            p99 = f"{found['p99_ms']:.2f} ms" if "p99_ms" in found else ""
            lines.append(
                f"| {scenario['title']} | {contestant(scenario, name)} | {plain(found['requests_per_s'])}"
                f" | {plain(found['bytes_per_s'] / (1 << 20))} | {found['cpu_us_per_request']:,.1f} µs"
                f" | {found['server_busy']:.0%} | {found['client_busy']:.0%} | {p99} |"
            )
    lines.append("")
    lines += [f"- {note}" for note in _notes(result)]
    lines += ["", "| Machine | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in result["machine"].items()]
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """Return a ratio with two places, small ones with three, large ones with one."""
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.2 else f"{value:.3f}"


def plain(value: float) -> str:
    """Return a rate without places, a slow one with two."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"


def contestant(scenario: dict[str, Any], name: str) -> str:
    """Return what a contestant is called in a table."""
    if scenario["name"] != "idle":
        return name
    count = scenario["idle"]["connections"]
    return f"sidecar {'with' if name == 'with' else 'without'} {count:,} idle connections"


def _notes(result: dict[str, Any]) -> list[str]:
    notes = list(result["notes"])
    for scenario in result["scenarios"]:
        if scenario["name"] == "idle":
            idle = scenario["idle"]
            notes.append(
                f"{idle['connections']:,} idle connections: proportional memory (PSS) of the sidecar's processes from"
                f" {idle['base_pss_kib']:,} to {idle['held_pss_kib']:,} KiB; nginx takes"
                f" {idle['nginx_pss_kib_per_connection']:.1f} KiB for each"
            )
    receiving = {
        name: seen["kTLS receiving"]
        for scenario in result["scenarios"]
        for name, seen in scenario.get("connection", {}).items()
    }
    if len(set(receiving.values())) > 1:
        notes.append("the kernel decrypts requests: " + ", ".join(f"{name} {word}" for name, word in receiving.items()))
    if any(item["verdict"] == "unclear" for scenario in result["scenarios"] for item in scenario["judged"]):
        notes.append(_UNCLEAR)
    busy = [found["others_busy"] for scenario in result["scenarios"] for found in scenario["medians"].values()]
    if busy and max(busy) > _BUSY_OTHERS:
        notes.append(
            f"the machine was not quiet: others used up to {max(busy):.2f} CPUs in the middle round of a scenario"
            f" (load average {result['load_average'][0]} before, {result['load_average'][1]} after);"
            " wall-clock rates suffer more from that than CPU time does"
        )
    return notes
