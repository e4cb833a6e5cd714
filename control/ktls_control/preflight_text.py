# SPDX-License-Identifier: Apache-2.0
"""A fleet's readiness as lines of styled text. Pure, and without rich, which a plain Ansible may not have."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence

from .preflight import VERDICTS, Finding, Group, Preflight, Variant
from .preflight_names import fold, natural

#: A line: pieces of text, each with a style as rich names them, or none.
Line = tuple[tuple[str, str], ...]

#: With more hosts than this, a row for each is shown only when asked for.
FEW = 20
_COLOURS = {"ready": "green", "refused": "red", "unknown": "yellow"}
_WORDS = {"ready": "yes", "refused": "no", "unknown": "?"}
_WORDINGS = 3
_NARROWEST = 60
_BAR = 24
_GAP = "  "
#: Keeps two words on one line; textwrap breaks at ASCII blanks only.
_GLUE = "\u00a0"
#: Room for "and 4,999 more" and what a broken line leaves unused.
_REST = 40


def lines(preflight: Preflight, width: int, *, hosts: bool = False, bar: bool = False) -> Iterator[Line]:
    """The whole view, worst first, nothing cut off.

    :param width: columns to keep within, as far as words allow.
    :param hosts: a row for each host, however many there are.
    :param bar: draw the shares of each phase too; it says something only in colours.
    """
    for line in _view(preflight, max(width, _NARROWEST), hosts, bar):
        yield _trimmed(line)


def plain(line: Line) -> str:
    """A line without its styles."""
    return "".join(text for text, _style in line)


def _trimmed(line: Line) -> Line:
    """Without blanks at its end."""
    kept = list(line)
    while kept and not kept[-1][0].rstrip():
        kept.pop()
    return (*kept[:-1], (kept[-1][0].rstrip(), kept[-1][1])) if kept else ()


def _view(preflight: Preflight, width: int, hosts: bool, bar: bool) -> Iterator[Line]:
    yield from _ladder(preflight, bar)
    told: set[tuple[str, str]] = set()
    for group in preflight.groups:
        yield ()
        yield from _group(group, width, told)
    if preflight.notes:
        yield ()
        yield ((f"good to know before {preflight.phase}", "bold"),)
        for note in preflight.notes:
            yield ((f"  {note.code}", "bold"),)
            if len(note.hosts) < preflight.ready:
                yield from _names(_label("on"), note.hosts, width, "dim")
            yield from _finding(note, "note", width, told)
    if hosts or len(preflight.hosts) <= FEW:
        yield ()
        yield from _table(preflight, width)
    yield ()
    yield ((preflight.summary, f"bold {_COLOURS['ready' if preflight.all_ready else 'refused']}"),)


def _ladder(preflight: Preflight, bar: bool) -> Iterator[Line]:
    total = len(preflight.hosts)
    digits = len(f"{total:,}")
    for phase, counts in preflight.counts.items():
        asked = phase == preflight.phase
        line = [("> " if asked else "  ", "bold"), (f"{phase:<9}", "bold" if asked else "")]
        for verdict, count in counts.items():
            line.append((f"   {count:>{digits},} {verdict}", _COLOURS[verdict] if count else "dim"))
        if bar:
            line.append(("   ", ""))
            line += [("━" * cells, _COLOURS[verdict]) for verdict, cells in _shares(counts, total).items()]
        yield tuple(line)


def _shares(counts: Mapping[str, int], total: int) -> dict[str, int]:
    """Cells of a bar; whatever is not zero is seen."""
    cells = {verdict: max(1, round(_BAR * count / total)) for verdict, count in counts.items() if count}
    if cells:
        cells[max(cells, key=lambda verdict: cells[verdict])] += _BAR - sum(cells.values())
    return cells


def _group(group: Group, width: int, told: set[tuple[str, str]]) -> Iterator[Line]:
    style = f"bold {_COLOURS[group.verdict]}"
    yield from _names(f"{group.verdict}  ", group.hosts, width, style)
    for finding in group.reasons:
        yield ((f"  {finding.code}", "bold"),)
        yield from _finding(finding, "because", width, told)


def _finding(finding: Finding, label: str, width: int, told: set[tuple[str, str]]) -> Iterator[Line]:
    """What was found, then the cure; a cure is told once."""
    more = len(finding.variants) - _WORDINGS
    shown = finding.variants[:_WORDINGS] if more > 1 else finding.variants
    cures: dict[str, list[Variant]] = {}
    for variant in shown:
        cures.setdefault(variant.cure, []).append(variant)
    for cure, variants in cures.items():
        for place, variant in enumerate(variants):
            count = f"[{_count(variant.hosts)}]".replace(" ", _GLUE) if len(finding.variants) > 1 else ""
            said = f"{variant.message} {count}"
            yield from _hanging(_label(label if place == 0 else ""), said, width, "dim", "")
        if cure:
            again = (finding.code, cure) in told
            told.add((finding.code, cure))
            yield from _hanging(_label("cure"), "as above" if again else cure, width, "dim", "" if again else "green")
    if more > 1:
        yield ((_label(""), ""), (f"and {more:,} other messages", "dim"))
    if finding.link and (finding.code, finding.link) not in told:
        told.add((finding.code, finding.link))
        yield ((_label("see"), "dim"), (finding.link, "cyan"))


def _table(preflight: Preflight, width: int) -> Iterator[Line]:
    """A row for each host, worst first. Facts that do not fit are left out, the last ones first; reasons never."""
    rows = sorted(
        preflight.hosts.items(),
        key=lambda item: (VERDICTS.index(item[1].phases[preflight.phase].verdict), natural(item[0])),
    )
    columns: list[tuple[str, list[str]]] = [("host", [name for name, _row in rows])]
    columns += [(step, [_WORDS[row.phases[step].verdict] for _name, row in rows]) for step in preflight.counts]
    facts: list[tuple[str, list[str]]] = [
        ("kernel", [row.kernel or "" for _name, row in rows]),
        ("openssl", [_version(row.openssl) for _name, row in rows]),
        ("system", [" ".join(part for part in row.distribution.values() if part) for _name, row in rows]),
        ("gnutls", [_version(row.gnutls) for _name, row in rows]),
    ]
    why = [", ".join(row.phases[preflight.phase].codes) for _name, row in rows]
    longest = max((len(code) for codes in why for code in codes.split(", ")), default=0)
    left = width - sum(_widest(*column) + len(_GAP) for column in columns) - max(longest, len("why"))
    for fact in facts:
        left -= _widest(*fact) + len(_GAP)
        if left < 0:
            break
        columns.append(fact)
    widths = [_widest(*column) for column in columns]
    heads = [f"{title:<{size}}{_GAP}" for (title, _cells), size in zip(columns, widths, strict=True)]
    yield (("".join([*heads, "why" if any(why) else ""]), "bold"),)
    for number, (_name, row) in enumerate(rows):
        cells = [
            (f"{cells[number]:<{size}}{_GAP}", _COLOURS[row.phases[title].verdict] if title in row.phases else "")
            for (title, cells), size in zip(columns, widths, strict=True)
        ]
        indent = sum(len(cell) for cell, _style in cells)
        first, *others = _wrap(why[number], width - indent) or [""]
        yield (*cells, (first, ""))
        for other in others:
            yield ((" " * indent + other, ""),)


def _widest(title: str, cells: Iterable[str]) -> int:
    return max([len(title), *map(len, cells)])


def _version(text: str | None) -> str:
    """The number alone, of such as ``OpenSSL 3.5.1 1 Jul 2025``."""
    found = re.search(r"[0-9]+(\.[0-9]+)+[a-z]*", text or "")
    return found[0] if found else ""


def _count(hosts: int) -> str:
    return "1 host" if hosts == 1 else f"{hosts:,} hosts"


def _label(text: str) -> str:
    return f"    {text:<9}"


def _hanging(label: str, text: str, width: int, label_style: str, style: str) -> Iterator[Line]:
    first, *others = _wrap(text, width - len(label)) or [""]
    yield ((label, label_style), (first, style))
    for other in others:
        yield ((" " * len(label), ""), (other, style))


def _names(label: str, names: Sequence[str], width: int, label_style: str) -> Iterator[Line]:
    """How many, and the names over two lines; long ranges break after a comma."""
    room = width - len(label)
    lead = f"{_count(len(names))}: "
    text = fold(names, max(2 * room - len(lead) - _REST, _REST))
    rows = [lead]
    for word in re.findall(r"[^, ]+,? ?", text):
        if len(rows[-1]) + len(word.rstrip()) > room and rows[-1] != lead:
            rows.append("")
        rows[-1] += word
    for place, row in enumerate(rows):
        yield ((label if place == 0 else " " * len(label), label_style), (row, ""))


def _wrap(text: str, width: int) -> list[str]:
    """Break between words only: paths and commands stay whole for whoever copies them."""
    broken = textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False)
    return [row.replace(_GLUE, " ") for row in broken]
