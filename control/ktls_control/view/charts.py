# SPDX-License-Identifier: Apache-2.0
"""The pictures of a report, each an ``<svg>`` element. Pure: numbers in, text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from . import svg, verdicts, words
from .drain import Drain
from .evidence import Course, HostEvidence
from .story import Story

_WIDE = 1000.0
_SMALL = (300.0, 220.0)
#: More hosts than this are drawn as one path: a title for each would make the page heavy.
_NAMED = 80
_MARKS = {"pass": "✔", "fail": "✘", "inconclusive": "?"}


def timeline(story: Story, names: Mapping[int, str], now: float) -> str:
    """When each wave did what: a row a wave, spans by kind, verdicts and what operators did over them."""
    waves = sorted({span.wave for span in story.spans})
    end = story.end if story.ended else max(now, story.end)
    row = 30.0 if len(waves) <= 12 else 14.0
    left, top = 150.0, 34.0
    bottom = top + row * max(1, len(waves))
    x = svg.linear(0, max(1.0, end - story.start), left, _WIDE - 14)
    parts = []
    for tick in svg.time_ticks(end - story.start):
        parts.append(svg.line(x(tick), top - 6, x(tick), bottom, "grid"))
        parts.append(svg.text(x(tick), bottom + 18, words.tick(tick) if tick else "0", "axis", "middle"))
    for index, wave in enumerate(waves):
        y = top + row * index
        parts.append(svg.text(left - 12, y + row / 2 + 4.5, names.get(wave, f"wave {wave}"), "label", "end"))
        parts.append(svg.line(left, y + row, _WIDE - 14, y + row, "rule"))
        for span in story.spans:
            if span.wave != wave:
                continue
            start, stop = x(span.start - story.start), x((end if span.end is None else span.end) - story.start)
            told = words.duration((end if span.end is None else span.end) - span.start)
            parts.append(
                svg.el(
                    "rect", svg.title(f"{names.get(wave, wave)}: {kind_name(span.kind)} {told}"),
                    x=start, y=y + row * 0.18, width=max(1.2, stop - start), height=row * 0.64, rx=2,
                    class_=f"k-{span.kind}",
                )
            )  # fmt: skip
    parts += _happened(story, waves, x, top, row, bottom)
    return svg.picture(_WIDE, bottom + 28, "Timeline of the rollout", *parts)


def _happened(story: Story, waves: Sequence[int], x: svg.Scale, top: float, row: float, bottom: float) -> list[str]:
    parts = []
    last = -100.0
    for point in story.points:
        at = x(point.at - story.start)
        if point.wave is None:
            if point.kind in ("ended", "absent"):
                continue
            parts.append(svg.line(at, top - 8, at, bottom, f"event e-{point.kind}"))
            # Labels that would lie on each other are left to the pointer.
            label = point.kind if at - last > 54 else "·"
            last = at if label != "·" else last
            parts.append(
                svg.el("text", svg.title(f"{words.moment(point.at)}: {point.text}"), label, x=at, y=top - 14,
                       class_=f"mark e-{point.kind}", text_anchor="middle")
            )  # fmt: skip
        elif point.kind in _MARKS and point.wave in waves:
            y = top + row * waves.index(point.wave) + row / 2
            radius = min(8.0, row * 0.3)
            parts.append(
                svg.el(
                    "g", svg.title(f"{words.moment(point.at)}: {point.text}"),
                    svg.el("circle", cx=at, cy=y, r=radius, class_=f"v-{point.kind}"),
                    svg.text(at, y + radius * 0.5, _MARKS[point.kind], "in-mark", "middle") if radius > 6 else "",
                )
            )  # fmt: skip
    return parts


def kind_name(kind: str) -> str:
    """A kind of span in words."""
    return {
        "approval": "waiting for approval",
        "paused": "paused",
        "inconclusive": "gate cannot tell, waiting for a person",
        "freeze": "waiting for a freeze to end",
        "absent": "no controller",
        "judged": "judged",
        "reverting": "going back",
    }.get(kind, kind)


def reach_of(judged: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """The range that forest plots of one page share, as shares: all intervals, but no further than 60 % either way."""
    values = [0.0, 0.05]
    for verdict in judged:
        for metric in verdicts.shown(verdict):
            values += [float(v) for key in ("low", "high", "margin", "effect") if (v := metric.get(key)) is not None]
    low, high = max(-0.6, min(values)), min(0.6, max(values))
    pad = (high - low) * 0.06
    return low - pad, high + pad


def forest(verdict: Mapping[str, Any], reach: tuple[float, float]) -> str:
    """Each metric's effect with its interval, against 0 and against the margin; right of the margin is harm."""
    metrics = verdicts.shown(verdict)
    row, top, left, right, width = 40.0, 30.0, 132.0, 168.0, 700.0
    bottom = top + row * len(metrics)
    low, high = reach
    x = svg.linear(low, high, left, width - right)

    def held(value: float) -> float:
        return x(min(high, max(low, value)))

    parts = [svg.text(x(0) - 8, 16, "◂ better", "axis", "end"), svg.text(x(0) + 8, 16, "worse ▸", "axis")]
    for tick in svg.ticks(low, high, 7):
        parts.append(svg.line(x(tick), top - 6, x(tick), bottom, "zero" if tick == 0 else "grid"))
        parts.append(svg.text(x(tick), bottom + 16, f"{tick * 100:+g} %" if tick else "0", "axis", "middle"))
    for index, metric in enumerate(metrics):
        y = top + row * index + row / 2
        margin = float(metric["margin"])
        parts.append(svg.text(left - 12, y + 4.5, words.metric(metric["name"]), "label", "end"))
        if low <= margin <= high:
            parts.append(
                svg.el("rect", svg.title(f"more than {margin * 100:.3g} % worse is not accepted"), x=x(margin),
                       y=y - row / 2 + 3, width=x(high) - x(margin), height=row - 6, class_="harm")
            )  # fmt: skip
            parts.append(svg.line(x(margin), y - row / 2 + 3, x(margin), y + row / 2 - 3, "margin"))
        effect = metric.get("effect")
        class_ = f"o-{metric['outcome']}"
        if effect is None:
            parts.append(
                svg.text(x(0) + 10, y + 4.5, _short(str(metric.get("detail") or "no data")), f"label {class_}-ink")
            )
            continue
        low_end, high_end = metric.get("low"), metric.get("high")
        told = words.percent(effect, sign=True)
        bars = ""
        if low_end is not None or high_end is not None:
            told += f" {words.interval(low_end, high_end)}"
            # An end that is not known is open: the line goes on to the edge.
            begin, end = (
                (x(low) if low_end is None else held(low_end)),
                (x(high) if high_end is None else held(high_end)),
            )
            bars = svg.line(begin, y, end, y, f"interval {class_}") + "".join(
                svg.line(at, y - 5, at, y + 5, f"interval {class_}")
                for at, value in ((begin, low_end), (end, high_end))
                if value is not None and low <= value <= high
            )
        hover = f"{words.metric(metric['name'])} {told}, margin {margin * 100:+.3g} %: {metric['outcome']}"
        dot = svg.el("circle", cx=held(effect), cy=y, r=5.5, class_=f"dot {class_}")
        parts.append(svg.el("g", svg.title(hover), bars, dot))
        parts.append(svg.text(width - right + 14, y + 4.5, told, f"label num {class_}-ink"))
    return svg.picture(width, bottom + 24, "Effect of each metric with its interval", *parts)


def _short(text: str, longest: int = 76) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def e_path(values: Sequence[float], threshold: float) -> str:
    """E-value of the error test over time, against the value that ends the wave."""
    width, height, left, top, bottom = 340.0, 170.0, 44.0, 18.0, 30.0
    values = [min(value, 1e12) for value in values]
    low = min(0.1, *(value for value in values if value > 0), 0.1)
    high = max(threshold * 3, *values)
    y = svg.logarithmic(low, high, height - bottom, top)
    x = svg.linear(0, max(1, len(values) - 1), left + 8, width - 16)
    parts = []
    tick = 10.0**-12
    while tick <= high:
        if tick >= low * 0.999:
            parts.append(svg.line(left, y(tick), width - 8, y(tick), "grid"))
            parts.append(svg.text(left - 6, y(tick) + 4, f"{tick:g}", "axis", "end"))
        tick *= 10 if high / low < 1e6 else 1000
    parts.append(svg.el("rect", x=left, y=top, width=width - 8 - left, height=y(threshold) - top, class_="harm"))
    parts.append(svg.line(left, y(threshold), width - 8, y(threshold), "margin"))
    parts.append(svg.text(left + 6, y(threshold) - 5, f"{threshold:g}: stops", "axis"))
    points = [(x(index), y(value)) for index, value in enumerate(values)]
    bad = values[-1] >= threshold
    parts.append(svg.path(points, "trace" + (" bad" if bad else "")))
    for (at, level), value in zip(points, values, strict=True) if len(values) <= 40 else ():
        class_ = "dot o-fail" if value >= threshold else "dot o-none"
        parts.append(svg.el("circle", svg.title(f"E = {words.e_value(value)}"), cx=at, cy=level, r=3, class_=class_))
    parts.append(svg.text(width - 8, height - 8, "time ▸", "axis", "end"))
    parts.append(svg.text(left, height - 8, "E-value of errors", "axis"))
    return svg.picture(width, height, "E-value of the error test over time", *parts)


_ARMS = (("before", "before"), ("off", "userspace"), ("on", "kTLS"))


def slopes(hosts: Sequence[HostEvidence], metric: str, unit: str, factor: float = 1.0) -> str | None:
    """A line a host from before the order over the soak's userspace to its kTLS, the median on top; None: no data.

    :param metric: field of ``evidence.Levels``.
    :param factor: to the unit that is shown.
    """
    arms = [arm for arm in _ARMS if any(getattr(getattr(host, arm[0]), metric) is not None for host in hosts)]
    if len(arms) < 2:
        return None
    rows = []
    for host in hosts:
        values = [getattr(getattr(host, arm), metric) for arm, _name in arms]
        if all(value is not None for value in values):
            rows.append((host, [value * factor for value in values]))
    if not rows:
        return None
    width, height, left, right, top, bottom = *_SMALL, 42.0, 58.0, 18.0, 26.0
    every = sorted(value for _host, values in rows for value in values)
    # A single wild host must not press all others flat; what is out of the frame is drawn at its edge.
    low, high = every[int(len(every) * 0.002)], every[min(len(every) - 1, int(len(every) * 0.998))]
    pad = (high - low) * 0.08 or high * 0.1 or 1.0
    low, high = max(0.0, low - pad), high + pad
    inner = svg.linear(low, high, height - bottom, top)

    def y(value: float) -> float:
        return inner(min(high, max(low, value)))

    x = svg.linear(0, len(arms) - 1, left + 14, width - right)
    parts = []
    for tick in svg.ticks(low, high, 5):
        parts.append(svg.line(left, y(tick), width - right + 8, y(tick), "grid"))
        parts.append(svg.text(left - 6, y(tick) + 4, f"{tick:g}", "axis", "end"))
    parts.append(svg.text(6, 12, unit, "axis"))
    for index, (_arm, name) in enumerate(arms):
        anchor = "start" if index == 0 else ("end" if index == len(arms) - 1 else "middle")
        parts.append(
            svg.text(
                x(index) + (16 if anchor == "end" else -14 if anchor == "start" else 0),
                height - 8,
                name,
                "axis",
                anchor,
            )
        )
    traces = [(host, values, [(x(index), y(value)) for index, value in enumerate(values)]) for host, values in rows]
    if len(traces) <= _NAMED:
        for host, values, points in traces:
            told = " → ".join(f"{value:.3g}" for value in values)
            parts.append(svg.path(points, "host", svg.title(f"{host.host}: {told} {unit}")))
    else:
        faint = "host many" if len(traces) < 400 else "host lots"
        parts.append(svg.el("path", d="".join(svg.trace(points) for _host, _values, points in traces), class_=faint))
    middle = [_median([values[index] for _host, values, _points in traces]) for index in range(len(arms))]
    parts.append(svg.path([(x(index), y(value)) for index, value in enumerate(middle)], "median"))
    for index, value in enumerate(middle):
        parts.append(svg.el("circle", cx=x(index), cy=y(value), r=4.5, class_=f"arm-{arms[index][0]}"))
    base = middle[-2]
    if base:
        parts.append(
            svg.text(
                width - right + 12, y(middle[-1]) + 5, words.percent(middle[-1] / base - 1, sign=True), "label num"
            )
        )
    return svg.picture(width, height, f"{unit} of each host before, without and with kTLS", *parts)


def spread(changes: Sequence[tuple[str, float]], margin: float) -> str:
    """The change of each host, smallest first, against the margin: a crowd reads as a curve, a sick host as a dot."""
    width, height, left, top, bottom = *_SMALL, 46.0, 18.0, 26.0
    ordered = sorted(changes, key=lambda pair: pair[1])
    values = [value for _host, value in ordered]
    low, high = min(-0.02, values[0], 0.0), max(margin * 1.5, values[-1])
    y = svg.linear(low - 0.01, high + 0.01, height - bottom, top)
    x = svg.linear(0, max(1, len(values) - 1), left + 12, width - 16)
    parts = []
    for tick in svg.ticks(low - 0.01, high + 0.01, 5):
        parts.append(svg.line(left, y(tick), width - 8, y(tick), "zero" if tick == 0 else "grid"))
        parts.append(svg.text(left - 6, y(tick) + 4, f"{tick * 100:+.3g} %" if tick else "0", "axis", "end"))
    parts.append(svg.el("rect", x=left, y=top, width=width - 8 - left, height=max(0.0, y(margin) - top), class_="harm"))
    parts.append(svg.line(left, y(margin), width - 8, y(margin), "margin"))
    radius = 4.0 if len(values) <= 40 else (2.6 if len(values) <= 200 else 1.6)
    dots: dict[bool, list[str]] = {False: [], True: []}
    for index, (host, value) in enumerate(ordered):
        bad = value > margin
        if len(values) <= _NAMED or (bad and len(dots[True]) < _NAMED):
            dots[bad].append(
                svg.el(
                    "circle",
                    svg.title(f"{host}: {words.percent(value, sign=True)}"),
                    cx=x(index),
                    cy=y(value),
                    r=radius,
                )
            )
        else:
            # A point of a path with round caps: a third of the bytes of a circle.
            dots[bad].append(f"M{x(index):.1f},{y(value):.1f}h0")
    for bad, class_ in ((False, "arm-on"), (True, "o-fail")):
        drawn = [one for one in dots[bad] if one.startswith("<")]
        if drawn:
            parts.append(svg.el("g", *drawn, class_=f"dot {class_}"))
        points = "".join(one for one in dots[bad] if not one.startswith("<"))
        if points:
            parts.append(svg.el("path", d=points, class_=f"points {class_}", stroke_width=radius * 2))
    parts.append(svg.text(left, height - 8, f"{len(values):,} hosts, least change first ▸", "axis"))
    return svg.picture(width, height, "Change of each host against the margin", *parts)


def overlay(course: Course) -> str | None:
    """CPU per GB against before, over the time since the order, with and without kTLS; None: no data."""
    every = [point for points in course.points.values() for point in points]
    if not every:
        return None
    width, height, left, top, bottom = _WIDE, 210.0, 60.0, 16.0, 30.0
    first, last = min(at for at, _value in every), max(at for at, _value in every)
    values = [value for _at, value in every]
    pad = (max(values) - min(values)) * 0.1 or 0.05
    low, high = min(values) - pad, max(values) + pad
    y = svg.linear(low, high, height - bottom, top)
    x = svg.linear(first, last, left + 6, width - 16)
    parts = []
    for tick in svg.ticks(low, high, 4):
        parts.append(svg.line(left, y(tick), width - 8, y(tick), "grid" if tick else "zero"))
        parts.append(svg.text(left - 6, y(tick) + 4, f"{tick * 100:+g} %" if tick else "before", "axis", "end"))
    step = svg.time_ticks(last - first, 10)
    gap = step[1] if len(step) > 1 else 1.0
    tick = (first // gap) * gap
    while tick <= last:
        if tick >= first:
            sign = "−" if tick < 0 else ""
            name = f"{sign}{words.tick(abs(tick))}" if tick else "order"
            parts.append(svg.text(x(tick), height - 8, name, "axis", "middle"))
        tick += gap
    if first < 0 < last:
        parts.append(svg.line(x(0), top - 4, x(0), height - bottom, "event"))
    parts.append(svg.text(6, 10, "CPU per GB, each host against itself before the order", "axis"))
    for arm, points in course.points.items():
        # A line would join blocks that other blocks lie between.
        dots = "".join(f"M{x(at):.1f},{y(value):.1f}h0" for at, value in points)
        parts.append(svg.el("path", d=dots, class_=f"points arm-{arm}", stroke_width=5))
    return svg.picture(width, height, "CPU per GB over time, with and without kTLS", *parts)


def drain(found: Drain) -> str:
    """Over the seconds since off: kTLS connections still open where that was counted, and the hosts that are done."""
    width, height, left, top, bottom = _WIDE, 220.0, 60.0, 16.0, 30.0
    longest = max((*found.done, *found.last_new, *(at for at, _count in found.open), 1.0)) * 1.05
    y = svg.linear(0, 1, height - bottom, top)
    x = svg.linear(0, longest, left, width - 16)
    parts = []
    for tick in (0.0, 0.25, 0.5, 0.75, 0.9, 1.0):
        parts.append(svg.line(left, y(tick), width - 8, y(tick), "grid"))
        parts.append(svg.text(left - 6, y(tick) + 4, f"{tick * 100:.0f} %", "axis", "end"))
    parts += [svg.text(x(tick), height - 8, f"{tick:g} s", "axis", "middle") for tick in svg.ticks(0, longest, 10)]
    for values, class_ in ((found.last_new, "arm-off"), (found.done, "arm-before" if found.open else "arm-on")):
        rising = [(at, done / found.hosts) for done, at in enumerate(sorted(values), 1)]
        parts.append(svg.path(_steps([(0.0, 0.0), *rising], longest, x, y), f"step {class_}"))
    if found.open:
        most = max(count for _at, count in found.open) or 1.0
        falling = [(at, count / most) for at, count in found.open]
        parts.append(svg.path(_steps(falling, longest, x, y), "step wide arm-on"))
    return svg.picture(width, height, "kTLS connections and hosts over the time since off", *parts)


def _steps(points: Sequence[tuple[float, float]], end: float, x: svg.Scale, y: svg.Scale) -> list[tuple[float, float]]:
    """A course that stays as it is until the next point."""
    drawn = [(x(points[0][0]), y(points[0][1]))]
    for (_before, level), (at, value) in zip(points, points[1:], strict=False):
        drawn += [(x(at), y(level)), (x(at), y(value))]
    return [*drawn, (x(end), y(points[-1][1]))]


def _median(values: Sequence[float]) -> float:
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2
