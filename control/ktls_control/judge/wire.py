# SPDX-License-Identifier: Apache-2.0
"""An agent's answer to ``series`` as a :class:`.model.HostSeries`, and back. Pure; believes nothing that it reads.

The wire form, all of it JSON: ``boot_id``, ``now_s`` (CLOCK_BOOTTIME of the host), ``wall_s`` (its wall clock),
``ordered_at_s`` (or null), ``arms`` (``off`` and ``on`` of an experiment ``connections``, or nothing) and ``samples``,
one column for each of ``at_ms``, ``ms``, ``arm`` (index into :data:`ARMS`), ``washout`` (0, 1), ``cpu_us``, ``sent``,
``ktls``, ``connections``, ``requests``, with null for what is not known. ``errors`` and ``probe_s`` are by index into
the columns, as text; without an entry there were none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ControlError
from .model import Arm, ArmTotals, HostSeries, Sample

ARMS: tuple[Arm, ...] = ("off", "on", "mixed")
_COUNTS = ("cpu_us", "sent", "ktls", "connections", "requests")
_COLUMNS = ("at_ms", "ms", "arm", "washout", *_COUNTS)
_MOST = 200_000
_OVERLAP_MS = 2  # rounding of two ends


class _BadError(ValueError):
    """What is wrong, for the message."""


def host_series(host: str, answer: Mapping[str, Any], read_at: float) -> HostSeries:
    """The series of ``host``.

    :param answer: what the agent said, ``{"ok": true, "series": {...}}``, or the series itself.
    :param read_at: the control node's wall clock when the answer came, seconds since the epoch.
    :raises ControlError: ``bad_series``: it cannot be used, and why; nothing of it is guessed.
    """
    try:
        series = _object(answer.get("series", answer), "series")
        samples = _samples(_object(series.get("samples"), "samples"))
        now_s = _number(series.get("now_s"), "now_s")
        if samples and samples[-1].at_s > now_s + 1:
            raise _BadError("its newest sample is of the future")
        ordered = series.get("ordered_at_s")
        boot_id = series.get("boot_id")
        if not isinstance(boot_id, str) or not boot_id:
            raise _BadError("boot_id is missing")
        return HostSeries(
            host,
            samples,
            None if ordered is None else _number(ordered, "ordered_at_s"),
            boot_id,
            now_s,
            _number(series.get("wall_s"), "wall_s") - read_at,
            _arms(_object(series.get("arms") or {}, "arms")),
        )
    except _BadError as error:
        raise ControlError("bad_series", f"{host}: its series cannot be used: {error}") from error


def encode(series: HostSeries, wall_s: float) -> dict[str, Any]:
    """The wire form of ``series``, as an agent whose wall clock says ``wall_s`` would answer: for records and fakes."""
    samples = series.samples
    return {
        "schema": 1,
        "boot_id": series.boot_id,
        "now_s": series.read_at_s,
        "wall_s": wall_s,
        "ordered_at_s": series.ordered_at_s,
        "samples": {
            "at_ms": [round(one.at_s * 1000) for one in samples],
            "ms": [round(one.seconds * 1000) for one in samples],
            "arm": [ARMS.index(one.arm) for one in samples],
            "washout": [int(one.washout) for one in samples],
            "cpu_us": [None if one.cpu_s is None else round(one.cpu_s * 1e6) for one in samples],
            **{name: [getattr(one, name) for one in samples] for name in _COUNTS[1:]},
            "errors": {
                str(index): None if one.errors is None else dict(one.errors)
                for index, one in enumerate(samples)
                if one.errors is None or one.errors
            },
            "probe_s": {str(index): list(one.probe_s) for index, one in enumerate(samples) if one.probe_s},
        },
        "arms": {
            name: {
                "connections": arm.connections, "requests": arm.requests, "sent": arm.sent, "errors": arm.errors,
                "seconds": list(arm.seconds),
            }
            for name, arm in series.arms.items()
        },
        "more": False,
    }  # fmt: skip


def _samples(columns: Mapping[str, Any]) -> tuple[Sample, ...]:
    rows = [_column(columns, name) for name in _COLUMNS]
    if len({len(row) for row in rows}) != 1:
        raise _BadError("its columns are not of one length")
    length = len(rows[0])
    if length > _MOST:
        raise _BadError(f"it has {length} samples")
    errors = _by_index(columns, "errors", length)
    probes = _by_index(columns, "probe_s", length)
    found: list[Sample] = []
    before_ms = -1
    for index, (at_ms, ms, arm, washout, *counts) in enumerate(zip(*rows, strict=True)):
        end, span = _count(at_ms, "at_ms"), _count(ms, "ms")
        if span < 1 or end <= before_ms or end - span < before_ms - _OVERLAP_MS:
            raise _BadError(f"sample {index} does not follow the one before it")
        before_ms = end
        if _count(arm, "arm") >= len(ARMS) or washout not in (0, 1):
            raise _BadError(f"sample {index} is of no known arm")
        known = [None if value is None else _count(value, name) for name, value in zip(_COUNTS, counts, strict=True)]
        cpu_us, sent, ktls, connections, requests = known
        if sent is not None and ktls is not None and ktls > sent:
            raise _BadError(f"sample {index} has more bytes by kTLS than bytes")
        found.append(
            Sample(
                end / 1000, span / 1000, ARMS[arm], bool(washout), None if cpu_us is None else cpu_us / 1e6,
                sent, ktls, connections, requests,
                _errors(errors[index]) if index in errors else {},
                tuple(_seconds(value) for value in _list(probes.get(index, []), "probe_s")),
            )
        )  # fmt: skip
    return tuple(found)


def _arms(arms: Mapping[str, Any]) -> dict[str, ArmTotals]:
    found: dict[str, ArmTotals] = {}
    for name, totals in arms.items():
        if name not in ("off", "on"):
            raise _BadError(f"arms: unknown arm {str(name)[:40]!r}")
        arm = _object(totals, f"arms.{name}")
        connections, requests, sent, errors = (
            _count(arm.get(key), f"arms.{name}.{key}") for key in ("connections", "requests", "sent", "errors")
        )
        seconds = tuple(_seconds(value) for value in _list(arm.get("seconds", []), "seconds"))
        found[name] = ArmTotals(connections, requests, sent, errors, seconds)
    return found


def _by_index(columns: Mapping[str, Any], name: str, length: int) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for key, value in _object(columns.get(name), name).items():
        index = int(key) if isinstance(key, str) and key.isascii() and key.isdigit() else -1
        if not 0 <= index < length:
            raise _BadError(f"{name} is of a sample that is not there")
        found[index] = value
    return found


def _errors(value: Any) -> Mapping[str, int] | None:
    if value is None:
        return None
    return {str(kind): _count(count, "errors") for kind, count in _object(value, "errors").items()}


def _column(columns: Mapping[str, Any], name: str) -> Sequence[Any]:
    return _list(columns.get(name), name)


def _list(value: Any, name: str) -> Sequence[Any]:
    if not isinstance(value, list):
        raise _BadError(f"{name} is not a list")
    return value


def _object(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _BadError(f"{name} is missing or not an object")
    return value


def _count(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise _BadError(f"{name}: {str(value)[:40]!r} is not a count")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise _BadError(f"{name} is not a number")
    return float(value)


def _seconds(value: Any) -> float:
    number = _number(value, "seconds")
    if not 0 <= number < 86400:
        raise _BadError(f"{number:g} is not a duration")
    return number
