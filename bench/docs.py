# SPDX-License-Identifier: Apache-2.0
"""Puts result tables into docs/benchmarks.md, between its marks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bench.errors import BenchError
from bench.table import render

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
BEGIN = "<!-- results: written by bench/run --docs, do not edit -->"
END = "<!-- end of results -->"


def place(page: str, tables: Sequence[str]) -> str:
    """Return ``page`` with ``tables`` between its marks. Raises BenchError: the marks are not there."""
    before, begin, rest = page.partition(BEGIN)
    _old, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchError(f"docs/benchmarks.md has lost its marks '{BEGIN}' and '{END}'")
    return before + "\n\n".join([BEGIN, *(table.strip() for table in tables), END]) + after


def write(results: Sequence[Path]) -> None:
    """Write the tables of the JSON files ``results`` into the page. Raises BenchError."""
    PAGE.write_text(place(PAGE.read_text(encoding="utf-8"), [_table(path) for path in results]), encoding="utf-8")


def _table(path: Path) -> str:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        where = "Natively" if result["place"] == "native" else "In a lab VM"
        return f"### {where}, mode {result['settings']['mode']}\n\n{render(result)}"
    except (OSError, ValueError, KeyError) as error:
        raise BenchError(f"{path} is no result of bench/run ({type(error).__name__}: {error})") from error
