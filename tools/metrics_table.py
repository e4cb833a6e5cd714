# SPDX-License-Identifier: Apache-2.0
"""Write the tables of docs/metrics.md from the catalogue of metrics.

.venv/bin/python -m tools.metrics_table
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from ktls_agent.metrics.catalogue import METRICS, Metric

PAGE = Path(__file__).resolve().parents[1] / "docs" / "metrics.md"
BEGIN, END = "<!-- made by tools/metrics_table.py -->\n", "<!-- end -->\n"


def tables() -> str:
    """Return one table a group, groups in the order of the catalogue."""
    groups = list(dict.fromkeys(metric.group for metric in METRICS))
    ordered = sorted(METRICS, key=lambda metric: groups.index(metric.group))
    return "".join(line for group, found in groupby(ordered, lambda m: m.group) for line in _table(group, found))


def _table(group: str, metrics: Iterator[Metric]) -> Iterator[str]:
    yield f"\n### {group}\n\n| metric | type | labels | unit | meaning |\n|---|---|---|---|---|\n"
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.unit} | {metric.help} |\n"


def page(text: str) -> str:
    """Return the page ``text`` with its tables made anew."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{tables()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
