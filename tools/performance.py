# SPDX-License-Identifier: Apache-2.0
"""docs/performance.md and its pictures, from the figures in docs/benchmarks.md, scale.md, pull.md, evidence.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from . import chart

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "performance.md"
TEXT = Path(__file__).with_name("performance_page.md")
RATIOS, COSTS = DOCS / "images/performance-nginx.svg", DOCS / "images/performance-scale.svg"

Row = list[str]


@dataclass(frozen=True)
class Ratio:
    """Sidecar by nginx: the median of the rounds, the lowest and the highest, and what was aimed at."""

    scenario: str
    measure: str
    median: float
    lowest: float
    highest: float
    target: str
    met: str


@dataclass(frozen=True)
class Result:
    """One run of bench/run."""

    title: str
    measured: str
    ratios: tuple[Ratio, ...]
    others: tuple[Row, ...]
    machine: dict[str, str]
    notes: tuple[str, ...]


def tables(text: str) -> Iterator[tuple[Row, list[Row]]]:
    """Head and rows of each table."""
    for found in re.finditer(r"((?:^\|.*\|$\n?)+)", text, re.MULTILINE):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in found[1].strip().splitlines()]
        yield lines[0], lines[2:]


def results(text: str) -> list[Result]:
    """Every run that docs/benchmarks.md has."""
    part = text.partition("<!-- results:")[2].partition("<!-- end of results -->")[0]
    return [_result(*re.split(r"\n", section, maxsplit=1)) for section in part.split("\n### ")[1:]]


def _result(title: str, text: str) -> Result:
    measured = re.search(r"^Measured .*$", text, re.MULTILINE)
    assert measured, title
    ratios, others, machine = [], [], {}
    for head, rows in tables(text):
        if head[:2] == ["Scenario", "Measure"]:
            for row in rows:
                found = re.fullmatch(r"\*\*([\d.]+)\*\* \(([\d.]+) to ([\d.]+)\)", row[2])
                if found:
                    low, high = float(found[2]), float(found[3])
                    ratios.append(Ratio(row[0], row[1], float(found[1]), low, high, row[3], row[4]))
                else:
                    others.append(row)
        elif head[0] == "Machine":
            machine = {row[0]: row[1] for row in rows}
    notes = tuple(re.findall(r"^- (.*)$", text, re.MULTILINE))
    return Result(title, measured[0], tuple(ratios), tuple(others), machine, notes)


def _read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def costs(text: str) -> list[tuple[str, float]]:
    """CPU a host, in ms, of 100 hosts on one machine, by way of doing it (docs/scale.md)."""
    head, rows = next(table for table in tables(text) if "CPU a host, ms" in table[0])
    at = head.index("CPU a host, ms")
    return [(row[0], float(row[at].replace(",", ""))) for row in rows if row[1] == "100"]


def ratios_chart() -> str:
    """Sidecar by nginx, every run, with the range of its rounds and the target."""
    rows = []
    for result in results(_read("benchmarks.md")):
        place = "VM, kTLS" if "VM" in result.title else "native, userspace TLS"
        for one in result.ratios:
            if one.scenario != "idle connections":
                limit = float(re.findall(r"[\d.]+", one.target)[0])
                label = f"{one.scenario}: {one.measure}"
                rows.append(chart.Range(label, place, one.median, one.lowest, one.highest, limit, one.met))
    return chart.ranges("Sidecar by nginx: 1 is the same", rows, 0.4, 1.6)


def costs_chart() -> str:
    """What a control node spends on a host."""
    return chart.bars("CPU for one host, in ms: 100 hosts, ten waves", costs(_read("scale.md")))


def images() -> dict[Path, str]:
    """Pictures, drawn."""
    return {RATIOS: ratios_chart(), COSTS: costs_chart()}


def draw() -> None:
    """Write them."""
    for path, text in images().items():
        path.write_text(text, encoding="utf-8")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def page() -> str:
    """The page."""
    return TEXT.read_text(encoding="utf-8").format(
        nginx="\n".join(_runs()),
        off=_between("pull.md", "bench.pull"),
        agent=_between("evidence.md", "bench.agent"),
        scale=_scale(),
    )


def _runs() -> Iterator[str]:
    for result in results(_read("benchmarks.md")):
        yield f"### {_heading(result)}\n\n{result.measured.replace('Measured ', 'Measured: ', 1)}\n"
        rows = [
            [
                one.scenario,
                one.measure,
                f"**{one.median:.2f}**",
                f"{one.lowest:.2f} to {one.highest:.2f}",
                one.target,
                one.met,
            ]
            for one in result.ratios
        ]
        rows += [[row[0], row[1], row[2], "", row[3], row[4]] for row in result.others]
        yield _table(["", "measure", "sidecar by nginx", "rounds", "target", ""], rows)
        told = ", ".join(f"{key} {value}" for key, value in result.machine.items() if key != "CPUs")
        yield f"Machine: {told}.\n"
        if noted := [note for note in result.notes if "quiet" in note]:
            yield f"Note: {noted[0]}.\n"


def _heading(result: Result) -> str:
    what = re.findall(r"files of \S+ \S+|handshakes", " ".join(one.scenario for one in result.ratios))
    if "VM" in result.title:
        return "Kernel TLS (transmit), in an emulated virtual machine"
    return "Userspace TLS, natively: " + (
        "large files" if any("MiB" in one for one in what) else "small files, handshakes"
    )


def _between(name: str, mark: str) -> str:
    text = _read(name).partition(f"<!-- {mark}: begin -->\n")[2].partition(f"<!-- {mark}: end -->")[0]
    assert text, mark
    return text.strip()


def _scale() -> str:
    rows = [[name, f"{cost:,.0f}"] for name, cost in costs(_read("scale.md"))]
    return _table(["100 hosts, ten waves", "CPU for one host, ms"], rows).strip()
