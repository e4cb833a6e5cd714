# SPDX-License-Identifier: Apache-2.0
"""Recorded waves as files: what ``ktls judge --replay`` reads. Believes nothing that it reads."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

from ..errors import ControlError
from ..plan.model import Gates, Method, Soak
from .gate import Check, Verdict
from .model import Arm, ArmTotals, HostSeries, Outcome, Sample

_MOST_BYTES = 512 * 1024 * 1024
_ARMS = get_args(Arm)
#: From best to worst.
_OUTCOMES: tuple[Outcome, ...] = ("pass", "inconclusive", "fail")
_TOTALS = ("connections", "requests", "sent", "errors")
_COUNTS = ("sent", "ktls", "connections", "requests")


@dataclass(frozen=True)
class Wave:
    """A wave as it was judged, or could have been."""

    phase: str
    gates: Gates
    soak: Soak | None
    series: tuple[HostSeries, ...]
    others: tuple[HostSeries, ...] = ()
    host_checks: Mapping[str, Verdict] | None = None
    title: str = ""


class _BadError(ValueError):
    """What is wrong, for the message."""


def load(path: Path, wave: int | None = None) -> Wave:
    """Read a file, or the directory of a run (or its ``evidence``).

    :param wave: of a run; None: the last one with evidence.
    :raises ControlError: ``no_series`` or ``bad_series``: what is wrong with which file.
    """
    if path.is_dir():
        return _run(path, wave)
    data = _json(path)
    try:
        return _wave(_object(data, "the file"), str(path))
    except _BadError as error:
        raise ControlError("bad_series", f"{path}: {error}; see docs/judge.md for the form") from error


def _json(path: Path) -> Any:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ControlError("bad_series", f"{path}: larger than {_MOST_BYTES >> 20} MiB")
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=lambda _name: math.nan)
    except OSError as error:
        raise ControlError("no_series", f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ControlError("bad_series", f"{path}: not JSON: {' '.join(str(error).split())[:200]}") from error


def _run(path: Path, wave: int | None) -> Wave:
    """A run's evidence, with the gates of its plan."""
    from ..plan import file as plan_file

    evidence = path / "evidence" if (path / "evidence").is_dir() else path
    found: dict[int, list[Path]] = {}
    for one in sorted(evidence.glob("wave-*-*.json")):
        digits = one.name.split("-", 2)[1]
        if digits.isascii() and digits.isdigit():
            found.setdefault(int(digits), []).append(one)
    if not found:
        raise ControlError("no_series", f"{evidence}: no evidence of a wave (wave-N-HOST.json)")
    number = max(found) if wave is None else wave
    if number not in found:
        there = ", ".join(map(str, sorted(found)))
        raise ControlError("no_series", f"{evidence}: no evidence of wave {number}; there is of {there}")
    series = [_file(one) for one in found[number]]
    others: list[HostSeries] = []
    for later in sorted(found):
        if later > number:
            # As they were before their own order: what came after it is no control.
            others += [_before_order(_file(one)) for one in found[later]]
    plan_path = evidence.parent / "plan.yml"
    if not plan_path.exists():
        return Wave("tx", Gates(), None, tuple(series), tuple(others), None, f"wave {number}, gates by default")
    plan = plan_file.load(plan_path)
    soak = next((one.soak for one in plan.waves if one.number == number), None)
    return Wave(plan.phase, plan.gates, soak, tuple(series), tuple(others), None, f"wave {number} of plan {plan.id}")


def _file(path: Path) -> HostSeries:
    try:
        return host_series(_object(_json(path), "the file"), path.stem)
    except _BadError as error:
        raise ControlError("bad_series", f"{path}: {error}; see docs/judge.md for the form") from error


def _before_order(series: HostSeries) -> HostSeries:
    if series.ordered_at_s is None:
        return series
    samples = tuple(sample for sample in series.samples if sample.at_s <= (series.ordered_at_s or 0.0))
    return replace(series, samples=samples, ordered_at_s=None)


def _wave(data: Mapping[str, Any], where: str) -> Wave:
    if "samples" in data or isinstance(data.get("series"), Mapping):
        # One host alone, or what its agent says.
        data = {"series": [data]}
    phase = data.get("phase", "tx")
    if not isinstance(phase, str):
        raise _BadError("phase is not text")
    soak = data.get("soak")
    checks = data.get("host_checks")
    return Wave(
        phase,
        _gates(data.get("gates") or {}),
        None if soak is None else _fill(Soak, soak, "soak"),
        _many(data.get("series"), "series"),
        _many(data.get("others") or [], "others"),
        None if checks is None else {host: _check(one, host) for host, one in _object(checks, "host_checks").items()},
        where,
    )


def _gates(data: Any) -> Gates:
    gates: Gates = _fill(Gates, data, "gates")
    if gates.method not in get_args(Method):
        raise _BadError(f"gates: method {gates.method!r}: use one of {', '.join(get_args(Method))}")
    if not 0 < gates.alpha < 0.5:
        raise _BadError("gates: alpha: use a number above 0 and below 0.5")
    if gates.block_s <= gates.washout_s or gates.washout_s < 0:
        raise _BadError("gates: block_s has to be above washout_s")
    return gates


def _fill(kind: Any, data: Any, where: str) -> Any:
    """A dataclass of numbers and texts from an object with some of its keys."""
    values = dict(_object(data, where))
    known = {field.name: field for field in fields(kind)}
    for name, value in values.items():
        if name not in known:
            raise _BadError(f"{where}: unknown key {name!r}; known: {', '.join(known)}")
        if known[name].type in ("float", "int"):
            values[name] = _number(value, f"{where}.{name}")
    try:
        return kind(**values)
    except TypeError as error:
        raise _BadError(f"{where}: {error}") from error


def _many(data: Any, where: str) -> tuple[HostSeries, ...]:
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise _BadError(f"{where} is not a list of series")
    return tuple(host_series(_object(one, f"{where}[{index}]"), f"host {index + 1}") for index, one in enumerate(data))


def host_series(data: Mapping[str, Any], host: str) -> HostSeries:
    """One host's series: an agent's answer, or ``samples`` as a list of objects or as columns of one length."""
    name = data.get("host", host)
    if not isinstance(name, str):
        raise _BadError("host is not text")
    said = data.get("series", data)
    if isinstance(said, Mapping) and isinstance(said.get("samples"), Mapping) and "at_ms" in said["samples"]:
        return _answer(name, said, data.get("read_at"))
    samples = tuple(_sample(one, f"{name}: samples[{index}]") for index, one in enumerate(_rows(data, name)))
    ordered = data.get("ordered_at_s")
    return HostSeries(
        name,
        samples,
        None if ordered is None else _number(ordered, f"{name}: ordered_at_s"),
        str(data.get("boot_id", "")),
        _number(data.get("read_at_s", samples[-1].at_s if samples else 0.0), f"{name}: read_at_s"),
        _number(data.get("skew_s", 0.0), f"{name}: skew_s"),
        {arm: _totals(one, f"{name}: arms.{arm}") for arm, one in _object(data.get("arms") or {}, "arms").items()},
    )


def _answer(host: str, series: Mapping[str, Any], read_at: Any) -> HostSeries:
    """What ``ktls-agent series --json`` says; without a time of reading its clock is taken to be right."""
    from . import wire

    read_at = series.get("wall_s") if read_at is None else read_at
    try:
        return wire.host_series(host, series, _number(read_at, f"{host}: read_at"))
    except ControlError as error:
        raise _BadError(error.message) from error


def _rows(data: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    samples = data.get("samples")
    if isinstance(samples, Mapping):
        columns = {key: value for key, value in samples.items() if isinstance(value, list)}
        if len(columns) < len(samples) or len({len(column) for column in columns.values()}) > 1:
            raise _BadError(f"{name}: columns of samples are not lists of one length")
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not isinstance(samples, list):
        raise _BadError(f"{name}: no samples")
    return [_object(one, f"{name}: samples[{index}]") for index, one in enumerate(samples)]


def _sample(data: Mapping[str, Any], where: str) -> Sample:
    arm = data.get("arm", "off")
    if arm not in _ARMS:
        raise _BadError(f"{where}: arm {str(arm)[:40]!r}: use one of {', '.join(_ARMS)}")
    errors, probes, block = data.get("errors", {}), data.get("probe_s") or [], data.get("block")
    if isinstance(probes, str) or not isinstance(probes, Sequence):
        raise _BadError(f"{where}: probe_s is not a list")
    if block is not None and (isinstance(block, bool) or not isinstance(block, int) or not 0 <= block < 10**6):
        raise _BadError(f"{where}: block is not a small number from 0")
    counts = {name: _known(data.get(name), f"{where}: {name}") for name in _COUNTS}
    return Sample(
        _number(data.get("at_s"), f"{where}: at_s"),
        _number(data.get("seconds"), f"{where}: seconds"),
        arm,
        data.get("washout") in (True, 1),
        _known(data.get("cpu_s"), f"{where}: cpu_s"),
        errors=None
        if errors is None
        else {str(kind): int(_number(count, f"{where}: errors")) for kind, count in _object(errors, "errors").items()},
        probe_s=tuple(_number(value, f"{where}: probe_s") for value in probes),
        block=block,
        **{name: None if value is None else int(value) for name, value in counts.items()},
    )


def _totals(data: Any, where: str) -> ArmTotals:
    values = _object(data, where)
    seconds = values.get("seconds") or []
    if isinstance(seconds, str) or not isinstance(seconds, Sequence):
        raise _BadError(f"{where}: seconds is not a list")
    connections, requests, sent, errors = (int(_number(values.get(name, 0), f"{where}: {name}")) for name in _TOTALS)
    return ArmTotals(
        connections, requests, sent, errors, tuple(_number(value, f"{where}: seconds") for value in seconds)
    )


def _check(data: Any, host: str) -> Verdict:
    checks = _object(data, f"host_checks.{host}").get("checks")
    if not isinstance(checks, list):
        raise _BadError(f"host_checks.{host}: no checks")
    made = []
    for one in checks:
        values = _object(one, f"host_checks.{host}")
        if values.get("outcome") not in _OUTCOMES:
            raise _BadError(f"host_checks.{host}: outcome: use one of {', '.join(_OUTCOMES)}")
        made.append(Check(str(values.get("name", "")), values["outcome"], str(values.get("detail", ""))))
    worst: Outcome = max((check.outcome for check in made), key=_OUTCOMES.index, default="pass")
    return Verdict(worst, tuple(made), None, 0, 0)


def _object(data: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise _BadError(f"{where} is not an object")
    return data


def _known(value: Any, where: str) -> float | None:
    """A number, or None when it is not known (null, or not a number)."""
    if value is None:
        return None
    number = _number(value, where)
    return number if math.isfinite(number) else None


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _BadError(f"{where} is not a number")
    try:
        number = float(value)
    except OverflowError:
        raise _BadError(f"{where} is too large") from None
    if abs(number) > 1e18 and math.isfinite(number):
        raise _BadError(f"{where} is too large")
    return number
