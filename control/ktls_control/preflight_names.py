# SPDX-License-Identifier: Apache-2.0
"""Many host names in few characters: ``web[1-40], db3``. Pure."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

_NUMBER = re.compile(r"([0-9]+)")


def natural(name: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key: web2 before web10."""
    parts = _NUMBER.split(name)
    return tuple(int(part) if place % 2 else part for place, part in enumerate(parts)), name


def fold(names: Iterable[str], budget: int | None = None) -> str:
    """Names in natural order, those that differ in one number folded to ranges.

    Ranges keep leading zeros: ``web[08-11]`` is web08 to web11.

    :param budget: about how many characters to take; the rest becomes ``and N more``. At least one name is shown.
    """
    ordered = sorted(set(names), key=natural)
    shown, items, left = 0, [], budget if budget is not None else sys.maxsize
    for bundle in _bundles(ordered):
        every = list(_pieces(bundle.numbers))
        fitting = _fitting(bundle, every, left)
        if fitting:
            items.append(bundle.render(every[:fitting]))
            left -= len(items[-1]) + len(", ")
            shown += sum(piece.count for piece in every[:fitting])
        if fitting < len(every):
            break
    if not items and ordered:
        items, shown = ordered[:1], 1
    rest = len(ordered) - shown
    return ", ".join(items) + (f" and {rest:,} more" if rest else "")


@dataclass(frozen=True)
class _Piece:
    """A number or a range of numbers, and how many it covers."""

    text: str
    count: int


@dataclass(frozen=True)
class _Bundle:
    """Names that are alike but for one number; ``numbers`` is empty for a name without any."""

    before: str
    after: str
    numbers: tuple[str, ...]

    def render(self, pieces: Sequence[_Piece]) -> str:
        """The names as one item; brackets only where they save something."""
        inside = ",".join(piece.text for piece in pieces)
        single = len(pieces) == 1 and pieces[0].count == 1
        return f"{self.before}{inside}{self.after}" if single else f"{self.before}[{inside}]{self.after}"


def _fitting(bundle: _Bundle, pieces: Sequence[_Piece], budget: int) -> int:
    """How many of the pieces fit into ``budget`` characters."""
    taken = len(bundle.render(pieces[:1]))
    if taken > budget:
        return 0
    taken = max(taken, len(bundle.before) + len(bundle.after) + len("[]") + len(pieces[0].text))
    for place, piece in enumerate(pieces[1:], start=1):
        taken += len(",") + len(piece.text)
        if taken > budget:
            return place
    return len(pieces)


def _bundles(names: Sequence[str]) -> list[_Bundle]:
    """Bundle names of one shape by the number that leaves the fewest bundles, the last one where that is a tie."""
    shapes: dict[str, list[list[str]]] = {}
    for name in names:
        shapes.setdefault(_NUMBER.sub("\0", name), []).append(_NUMBER.split(name))
    found: list[_Bundle] = []
    for split in shapes.values():
        places = range(1, len(split[0]), 2)
        choices = [_along(split, place) for place in reversed(places)]
        fewest: list[_Bundle] = min(choices, key=len, default=[_Bundle(split[0][0], "", ("",))])
        found += fewest
    return sorted(found, key=lambda bundle: natural(f"{bundle.before}{bundle.numbers[0]}{bundle.after}"))


def _along(split: Sequence[Sequence[str]], place: int) -> list[_Bundle]:
    members: dict[tuple[str, str], list[str]] = {}
    for parts in split:
        members.setdefault(("".join(parts[:place]), "".join(parts[place + 1 :])), []).append(parts[place])
    return [
        _Bundle(before, after, tuple(sorted(numbers, key=lambda number: (len(number), number))))
        for (before, after), numbers in members.items()
    ]


def _pieces(numbers: Sequence[str]) -> Iterator[_Piece]:
    start = end = numbers[0]
    count = 1
    for number in numbers[1:]:
        if _follows(end, number):
            end, count = number, count + 1
            continue
        yield _piece(start, end, count)
        start, end, count = number, number, 1
    yield _piece(start, end, count)


def _follows(number: str, following: str) -> bool:
    """A range never mixes padded and plain numbers of different lengths."""
    alike = len(number) == len(following) or not following.startswith("0")
    return alike and int(following) == int(number) + 1


def _piece(start: str, end: str, count: int) -> _Piece:
    return _Piece(start if count == 1 else f"{start}-{end}", count)
