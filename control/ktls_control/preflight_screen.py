# SPDX-License-Identifier: Apache-2.0
"""A fleet's readiness on the operator's screen; what it says is decided in ``preflight_text``."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from rich.console import Console
from rich.text import Text

from .preflight import Preflight
from .preflight_text import Line, lines

_BATCH = 50


def draw(console: Console, preflight: Preflight, *, hosts: bool = False) -> None:
    """Print the view.

    :param hosts: a row for each host, however many there are.
    """
    bar = console.is_terminal and not (console.no_color or console.options.ascii_only)
    for batch in _batches(lines(preflight, console.width, hosts=hosts, bar=bar)):
        text = Text(end="")
        for line in batch:
            for piece, style in line:
                text.append(piece, style)
            text.append("\n")
        # Lines are broken already, and a path must come out whole.
        console.print(text, soft_wrap=True, end="")


def _batches(every: Iterator[Line]) -> Iterator[list[Line]]:
    """One print for many lines is fast; one for thousands is slow again."""
    while batch := list(islice(every, _BATCH)):
        yield batch
