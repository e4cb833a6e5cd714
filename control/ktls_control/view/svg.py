# SPDX-License-Identifier: Apache-2.0
"""A few SVG elements and scales. Colours are classes of the page, so that pictures follow its light and dark form."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

Scale = Callable[[float], float]


def el(tag: str, *children: str, **attributes: object) -> str:
    """An element. ``class_`` is ``class``, other underscores are hyphens; numbers are rounded; None is left out."""
    text = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return f"<{tag}{text}>{''.join(children)}</{tag}>" if children else f"<{tag}{text}/>"


def _value(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    return escape(str(value), quote=True)


def text(x: float, y: float, words: str, class_: str = "", anchor: str | None = None) -> str:
    """Words at a place; ``anchor``: start, middle, end."""
    return el("text", escape(words, quote=False), x=x, y=y, class_=class_ or None, text_anchor=anchor)


def title(words: str) -> str:
    """What a pointer that rests on the element around it is told."""
    return el("title", escape(words, quote=False))


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> str:
    """A straight line."""
    return el(
        "path", d=f"M{_value(float(x1))},{_value(float(y1))}L{_value(float(x2))},{_value(float(y2))}", class_=class_
    )


def path(points: Sequence[tuple[float, float]], class_: str, *children: str) -> str:
    """A line through points."""
    return el("path", *children, d=trace(points), class_=class_)


def trace(points: Sequence[tuple[float, float]]) -> str:
    """Data of a path through points."""
    return "M" + "L".join(f"{_value(float(x))},{_value(float(y))}" for x, y in points)


def picture(width: float, height: float, label: str, *children: str) -> str:
    """The whole drawing; ``label`` is read out to who cannot see it."""
    return el(
        "svg", *children, viewBox=f"0 0 {_value(float(width))} {_value(float(height))}", role="img", aria_label=label,
        xmlns="http://www.w3.org/2000/svg",
    )  # fmt: skip


def linear(low: float, high: float, begin: float, end: float) -> Scale:
    """Maps ``low``..``high`` to ``begin``..``end``."""
    span = (high - low) or 1.0
    return lambda value: begin + (value - low) / span * (end - begin)


def logarithmic(low: float, high: float, begin: float, end: float) -> Scale:
    """The same for logarithms; what is below ``low`` is drawn at it."""
    inner = linear(math.log10(low), math.log10(high), begin, end)
    return lambda value: inner(math.log10(max(low, value)))


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers between ``low`` and ``high``, some ``count`` of them."""
    span = high - low
    if span <= 0 or not math.isfinite(span):
        return [low]
    rough = span / max(1, count)
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 10) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def time_ticks(span_s: float, count: int = 8) -> list[float]:
    """Round stretches of time from 0 to ``span_s``."""
    steps = (
        1,
        2,
        5,
        10,
        20,
        30,
        60,
        120,
        300,
        600,
        1200,
        1800,
        3600,
        7200,
        10_800,
        21_600,
        43_200,
        86_400,
        172_800,
        604_800,
    )
    step = next((step for step in steps if span_s / step <= count), steps[-1])
    return [float(index * step) for index in range(int(span_s // step) + 1)]
