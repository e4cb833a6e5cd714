# SPDX-License-Identifier: Apache-2.0
"""The ratios of one result as a picture, with the targets as lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from bench.table import PLACES, number

_COLOURS = {"met": "#2e7d32", "missed": "#c62828", "unclear": "#757575"}


def rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is drawn: one row for each target. An absolute value is drawn in units of its limit."""
    found = []
    for scenario in result["scenarios"]:
        for item in scenario["judged"]:
            scale = 1 / item["limit"] if item["absolute"] else 1.0
            limit = 1.0 if item["absolute"] else item["limit"]
            text = f"{scenario['title']}\n{item['text']}"
            if item["absolute"]:
                text += f", in units of {item['limit']:g}"
            found.append(
                {
                    "text": text,
                    "median": item["median"] * scale,
                    "low": item["low"] * scale,
                    "high": item["high"] * scale,
                    "limit": limit,
                    "at_least": item["at_least"],
                    "verdict": item["verdict"],
                }
            )
    return found


def draw(result: dict[str, Any], path: Path) -> None:
    """Write a PNG file."""
    drawn = rows(result)
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.75 * len(drawn)), layout="constrained")
    for place, row in enumerate(reversed(drawn)):
        colour = _COLOURS[row["verdict"]]
        axes.barh(place, row["median"], height=0.55, color=colour, alpha=0.75)
        axes.plot([row["low"], row["high"]], [place, place], color="black", linewidth=1.4, marker="|", markersize=9)
        axes.plot([row["limit"], row["limit"]], [place - 0.42, place + 0.42], color="#1a237e", linewidth=2.2)
        sign = "≥" if row["at_least"] else "≤"
        words = f"{number(row['median'])}  (target {sign} {row['limit']:g}, {row['verdict']})"
        axes.annotate(
            words, (max(row["high"], row["limit"]), place), xytext=(8, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(drawn)), [row["text"] for row in reversed(drawn)])
    axes.set_xlim(0, max(max(row["high"], row["limit"]) for row in drawn) * 1.45)
    axes.set_xlabel(
        "sidecar / nginx (idle: with / without idle connections); bar: median, black: all rounds, blue: target"
    )
    settings = result["settings"]
    axes.set_title(f"Sidecar against nginx {PLACES[result['place']]}, {settings['mode']}, {result['started'][:10]}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120, bbox_inches="tight")
    pyplot.close(figure)
