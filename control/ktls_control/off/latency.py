# SPDX-License-Identifier: Apache-2.0
"""The three latencies of off, of a host and of a fleet. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from .model import Latencies, OffResult, Spread

#: A point: seconds since off began, kTLS connections open then.
Curve = Sequence[tuple[float, int]]
_GONE = 0.9


def drained(curve: Curve, none_left_s: float | None) -> float | None:
    """When 90 % of the most connections ever seen had ended; None when that was not seen.

    Errs on the late side by the time between two looks; never later than ``none_left_s``, which the host dates itself.
    """
    most = max((count for _at, count in curve), default=0)
    if most == 0:
        return none_left_s
    seen = next((at for at, count in _after_most(curve, most) if count <= most * (1 - _GONE) + 1e-9), None)
    known = [at for at in (seen, none_left_s) if at is not None]
    return min(known) if known else None


def _after_most(curve: Curve, most: int) -> Curve:
    start = next((index for index, (_at, count) in enumerate(curve) if count == most), 0)
    return curve[start:]


def together(curves: Sequence[Curve]) -> list[tuple[float, int]]:
    """The sum of curves: each counts its first value from the start, and its last for ever."""
    curves = [curve for curve in curves if curve]
    now = [curve[0][1] for curve in curves]
    steps = sorted((at, number, count) for number, curve in enumerate(curves) for at, count in curve)
    summed: list[tuple[float, int]] = []
    total = sum(now)
    for at, number, count in steps:
        total += count - now[number]
        now[number] = count
        summed.append((at, total))
    return summed


def percentile(values: Sequence[float], share: float) -> float | None:
    """Nearest rank: the smallest value that ``share`` of all do not exceed."""
    ordered = sorted(values)
    if not ordered:
        return None
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)]


def spread(values: Sequence[float | None]) -> Spread:
    """Percentiles of the values that there are."""
    known = [value for value in values if value is not None]
    return Spread(len(known), *(percentile(known, share) for share in (0.5, 0.9, 0.99, 1.0)))


def fleet(results: Sequence[OffResult]) -> Latencies:
    """Latencies of all hosts that are off."""
    off = [result for result in results if result.off]
    none_left = [result.none_left_s for result in off]
    curve = together([result.curve for result in off])
    done = _last(none_left)
    return Latencies(
        last_new_s=_last([result.last_new_s for result in off]),
        drained_90_s=drained(curve, done) if off else None,
        none_left_s=done,
        left=sum(result.left or 0 for result in off),
        spread={
            name: spread([getattr(result, name) for result in off])
            for name in ("flag_s", "last_new_s", "drained_90_s", "none_left_s")
        },
    )


def _last(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return max(known) if known and len(known) == len(values) else None
