# SPDX-License-Identifier: Apache-2.0
"""The Range field: RFC 9110 section 14.1.2 and 14.2. One byte range; several are answered with the whole file."""

from __future__ import annotations

import re

_SPEC = re.compile(r"bytes=[ \t]*(\d{0,19})-(\d{0,19})[ \t]*", re.ASCII | re.IGNORECASE)


class UnsatisfiableError(Exception):
    """The range lies outside of the file: 416."""


def parse_range(field: str, size: int) -> tuple[int, int] | None:
    """Return (offset, length) inside a file of ``size`` bytes, or None when the field is to be ignored.

    Raises :class:`UnsatisfiableError`.
    """
    match = _SPEC.fullmatch(field)
    if match is None:
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        length = min(int(last), size)
        if length == 0:
            raise UnsatisfiableError
        return size - length, length
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise UnsatisfiableError
    end = min(int(last), size - 1) if last else size - 1
    return start, end - start + 1
