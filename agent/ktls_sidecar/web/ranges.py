# SPDX-License-Identifier: Apache-2.0
"""The Range field: RFC 9110 sections 14.1.2 and 14.2. A field that is not understood reads as absent."""

from __future__ import annotations

import re

RANGES_MAX = 32
"""More ranges than this are answered with the whole file."""

_SET = re.compile(r"bytes=(.*)", re.ASCII | re.IGNORECASE | re.DOTALL)
_SPEC = re.compile(r"[ \t]*(\d{0,19})-(\d{0,19})[ \t]*", re.ASCII)
_BLANK = " \t"


class UnsatisfiableError(Exception):
    """The range lies outside of the file: 416."""


def parse_range(field: str, size: int) -> tuple[int, int] | None:
    """Return (offset, length) inside a file of ``size`` bytes, or None when the field is not one range.

    Raises :class:`UnsatisfiableError`.
    """
    match = _SET.fullmatch(field)
    found = _spec(match.group(1), size) if match is not None else None
    if found is not None and found[1] == 0:
        raise UnsatisfiableError
    return found


def parse_ranges(field: str, size: int) -> list[tuple[int, int]] | None:
    """Return (offset, length) for each range inside a file of ``size`` bytes, or None when the field is to be ignored.

    In the order asked for; those outside of the file are left out, and those that overlap are one (section 15.3.7.2),
    so that the sum is never more than the file. Raises :class:`UnsatisfiableError` when none lies inside.
    """
    match = _SET.fullmatch(field)
    if match is None:
        return None
    text = match.group(1)
    if "," not in text:
        only = _spec(text, size)
        if only is not None and not only[1]:
            raise UnsatisfiableError
        return None if only is None else [only]
    listed = text.split(",", 2 * RANGES_MAX)
    specs = [spec for spec in listed if spec.strip(_BLANK)]
    if not specs or len(listed) > 2 * RANGES_MAX or len(specs) > RANGES_MAX:
        return None
    found: list[tuple[int, int]] = []
    for spec in specs:
        one = _spec(spec, size)
        if one is None:
            return None
        if one[1]:
            found.append(one)
    if not found:
        raise UnsatisfiableError
    return found if len(found) == 1 else _coalesced(found)


def _spec(spec: str, size: int) -> tuple[int, int] | None:
    """Return (offset, length), with length 0 for one outside of the file, or None for what is no range."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        length = min(int(last), size)
        return size - length, length
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        return start, 0
    end = min(int(last), size - 1) if last else size - 1
    return start, end - start + 1


def _coalesced(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    order = sorted(range(len(ranges)), key=lambda index: ranges[index])
    merged: list[tuple[int, int, int]] = []  # place of the first that was asked for, start, end
    for index in order:
        start, length = ranges[index]
        if merged and start < merged[-1][2]:
            place, begin, end = merged[-1]
            merged[-1] = (min(place, index), begin, max(end, start + length))
        else:
            merged.append((index, start, start + length))
    return [(start, end - start) for _, start, end in sorted(merged)]
