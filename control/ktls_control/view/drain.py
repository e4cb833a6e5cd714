# SPDX-License-Identifier: Apache-2.0
"""How connections ended after off, out of what ``ktls off --json`` said. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Drain:
    """Seconds are since off began.

    :param done: by host, when its last kTLS connection had ended; ``last_new``: when its last new one was made. Hosts
        that could not say are left out.
    :param open: kTLS connections of all hosts over time; empty where hosts only said when they were done.
    :param not_off: host and why, of those that are not read back as off, or still drain.
    """

    hosts: int
    off: int
    last_new: tuple[float, ...]
    done: tuple[float, ...]
    open: tuple[tuple[float, float], ...]
    drained_90_s: float | None
    not_off: tuple[tuple[str, str], ...]


def read(said: Mapping[str, Any] | None) -> Drain | None:
    """None when it says nothing of any host."""
    hosts = said.get("hosts") if said else None
    rows = [row for row in hosts.values() if isinstance(row, Mapping)] if isinstance(hosts, Mapping) else []
    if not rows:
        return None
    off = [row for row in rows if row.get("off")]
    done = tuple(sorted(float(row["none_left_s"]) for row in off if row.get("none_left_s") is not None))
    curve = together([found for row in off if (found := _curve(row.get("curve")))])
    fleet = (said or {}).get("fleet")
    ninety = fleet.get("drained_90_s") if isinstance(fleet, Mapping) else _ninety(curve, done, len(rows))
    return Drain(
        hosts=len(rows),
        off=len(off),
        last_new=tuple(sorted(float(row["last_new_s"]) for row in off if row.get("last_new_s") is not None)),
        done=done,
        open=curve,
        drained_90_s=None if ninety is None else float(ninety),
        not_off=tuple(
            (str(row.get("host")), str(row.get("error") or f"{row.get('left')} connections still drain"))
            for row in rows
            if not row.get("off") or row.get("left")
        ),
    )


def _ninety(curve: Curve, done: Sequence[float], hosts: int) -> float | None:
    """When nine of ten connections had ended, or where they were not counted, when nine of ten hosts had none."""
    if curve:
        most = max(count for _at, count in curve)
        top = next(index for index, (_at, count) in enumerate(curve) if count == most)
        return next((at for at, count in curve[top:] if count <= most * 0.1), None)
    return done[-(-hosts * 9 // 10) - 1] if len(done) >= 0.9 * hosts else None


def _curve(given: Any) -> list[tuple[float, float]]:
    try:
        return [(float(at), float(count)) for at, count in given or ()]
    except (TypeError, ValueError):
        return []


def together(curves: Sequence[Curve]) -> tuple[tuple[float, float], ...]:
    """The sum of curves; each counts its first value from the start, and its last for ever."""
    now = [curve[0][1] for curve in curves]
    total = sum(now)
    summed = [(0.0, total)] if curves else []
    for at, number, count in sorted((at, number, count) for number, curve in enumerate(curves) for at, count in curve):
        total += count - now[number]
        now[number] = count
        summed.append((at, total))
    return tuple(summed)
