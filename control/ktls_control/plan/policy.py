# SPDX-License-Identifier: Apache-2.0
"""How an operator wants a phase rolled out: variable ``ktls_policy``, checked. Pure.

``playbooks/vars/policy.yml`` shows every key with its default; docs/plan.md says what each means.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, get_args

from ..errors import ControlError
from .model import Earlier, Freeze, Gates, Inconclusive, Method, Otherwise, Soak

KEY = "ktls_policy"
#: What caps go by.
LABELS = ("rack", "nic_model", "kernel")
SOAK = Soak(min_s=600.0, max_s=1800.0)
GATES = Gates()
_DURATION_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Size:
    """How many hosts a wave takes: a count, or a share of the eligible ones."""

    count: int | None = None
    share: Fraction | None = None

    def of(self, total: int) -> int:
        """Hosts, of ``total``: a share is rounded down, and is never none."""
        return self.count if self.count is not None else max(1, math.floor((self.share or 0) * total))


@dataclass(frozen=True)
class WavePolicy:
    """One entry of ``waves``; what is None is as in the policy itself."""

    size: Size
    name: str | None = None
    approve: bool | None = None
    soak: Soak | None = None


@dataclass(frozen=True)
class Policy:
    """See docs/plan.md. Seconds, shares from 0 to 1.

    :param waves: the last entry holds for all hosts that are left, in as many waves as caps make of them.
    :param variables: names of the inventory variables that hold the labels.
    :param approve: numbers of waves that a person has to promote.
    :param failure_budget: hosts, or a share of the eligible ones.
    :param lease_s: None: long enough for the longest soak.
    :param headroom_peak: how many times today's CPU the busiest hour takes; None: from recorded series, else 1.
    :param headroom_ratio: CPU per byte of userspace TLS by that of the kernel's; None: from evidence.
    :param hw_min_eligible: phase ``hw``: smallest share of a host's bytes that has to be TLS 1.2 with AES-GCM where its
        agent has no consent to negotiate that.
    :param earlier: what becomes of an earlier wave that a later gate finds bad: ``revert`` or ``hold``.
    :param skip_rungs: plan a phase for hosts that are not on the one before it.
    :param include_done: plan hosts too that are on the phase already.
    :param noise_hosts: hosts whose recorded series are read, to say what effect a wave can detect.
    :param host_s: seconds that Ansible takes for one task on one host.
    """

    waves: tuple[WavePolicy, ...] = (
        WavePolicy(Size(count=1), "canary"),
        WavePolicy(Size(share=Fraction(5, 100))),
        WavePolicy(Size(share=Fraction(25, 100))),
        WavePolicy(Size(share=Fraction(1))),
    )
    canaries: tuple[str, ...] = ()
    caps: Mapping[str, str] = field(default_factory=lambda: {"rack": "1/3", "nic_model": "1/2", "kernel": "1/2"})
    variables: Mapping[str, str] = field(
        default_factory=lambda: {"rack": "ktls_rack", "nic_model": "ktls_nic_model", "kernel": "ktls_kernel"}
    )
    soak: Soak = SOAK
    gates: Gates = GATES
    approve: tuple[int, ...] = ()
    failure_budget: Size = Size(count=0)
    lease_s: float | None = None
    freezes: tuple[Freeze, ...] = ()
    drill_required: bool = True
    drill_max_age_s: float = 7 * 86400.0
    headroom_limit: float = 0.85
    headroom_peak: float | None = None
    headroom_ratio: float | None = None
    hw_min_eligible: float = 0.99
    earlier: Earlier = "revert"
    skip_rungs: bool = False
    include_done: bool = False
    noise_hosts: int = 20
    host_s: float = 1.5
    salt: str = "ktls"

    def cap(self, label: str) -> Fraction:
        """Largest share of the hosts with the same label that a wave may hold; 1 where there is no cap."""
        return Fraction(self.caps.get(label, "1"))


class _BadError(Exception):
    """A value that is not what its key takes: what would be."""


def load(path: Path) -> Policy:
    """The policy in ``path``, under key ``ktls_policy`` or bare.

    :raises ControlError: ``no_policy`` or ``bad_policy``.
    """
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ControlError(
            "no_policy", f"{path}: {error.strerror}; see playbooks/vars/policy.yml for the form"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        raise ControlError("bad_policy", f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if isinstance(data, Mapping) and KEY in data:
        others = [str(key) for key in data if key != KEY]
        if others:
            raise ControlError("bad_policy", f"{path}: {others[0]}: beside {KEY} there is no other key: move it inside")
        data = data[KEY]
    return parse(data, str(path))


def parse(data: object, where: str) -> Policy:
    """A checked policy; what is not given keeps its default.

    :param where: file or variable, for messages.
    :raises ControlError: ``bad_policy``, naming the key and what it takes.
    """
    given = _section({} if data is None else data, _KEYS, where, "")
    waves = given.get("waves", Policy().waves)
    soak = Soak(**{**_plain(Policy().soak), **given.get("soak", {})})
    given["gates"] = Gates(**{**_plain(Policy().gates), **given.get("gates", {})})
    for part in ("caps", "variables"):
        given[part] = {**getattr(Policy(), part), **given.get(part, {})}
    try:
        _check_soak(soak, "soak")
        given["waves"] = tuple(_wave(wave, number, soak) for number, wave in enumerate(waves, start=1))
        _check_gates(given["gates"])
    except _BadError as error:
        raise ControlError("bad_policy", f"{where}: {error}") from error
    return Policy(**{**given, "soak": soak})


def _wave(wave: WavePolicy | Mapping[str, Any], number: int, soak: Soak) -> WavePolicy:
    """An entry of ``waves``; a part of a soak that it does not give is the policy's."""
    if isinstance(wave, WavePolicy):
        return wave
    own = None
    if "soak" in wave:
        own = Soak(**{**_plain(soak), **wave["soak"]})
        _check_soak(own, f"waves[{number}].soak")
    return WavePolicy(wave["size"], wave.get("name"), wave.get("approve"), own)


def _plain(value: Any) -> dict[str, Any]:
    return {item.name: getattr(value, item.name) for item in fields(value)}


def _check_soak(soak: Soak, where: str) -> None:
    if soak.max_s < soak.min_s:
        raise _BadError(f"{where}.max_s: {soak.max_s:g} is less than min_s, {soak.min_s:g}: raise it")


def _check_gates(gates: Gates) -> None:
    if gates.washout_s >= gates.block_s:
        raise _BadError(
            f"gates.washout_s: {gates.washout_s:g} leaves nothing of a block of {gates.block_s:g} s: lower it"
        )


def _section(data: object, keys: Mapping[str, _Reader | _Keys], where: str, path: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise ControlError("bad_policy", f"{where}: {path.rstrip('.') or KEY}: use a mapping of keys and values")
    found = {}
    for key, value in data.items():
        if key not in keys:
            near = difflib.get_close_matches(str(key), keys, n=1, cutoff=0.5)
            hint = f"did you mean {path}{near[0]}?" if near else f"known are {', '.join(sorted(keys))}"
            raise ControlError("bad_policy", f"{where}: {path}{key}: there is no such key; {hint}")
        try:
            read = keys[key]
            found[key] = _section(value, read.keys, where, f"{path}{key}.") if isinstance(read, _Keys) else read(value)
        except _BadError as error:
            raise ControlError("bad_policy", f"{where}: {path}{key}: {error}") from error
    return found


#: Turns what the file says into what is meant, or raises _BadError.
_Reader = Callable[[Any], Any]


@dataclass(frozen=True)
class _Keys:
    """A section, and what may stand in it."""

    keys: Mapping[str, _Reader | _Keys]


def _number(low: float, high: float = math.inf, what: str = "a number") -> Callable[[Any], float]:
    def read(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            limits = f"from {low:g} to {high:g}" if high < math.inf else f"of {low:g} or more"
            raise _BadError(f"{value!r}: use {what} {limits}")
        return float(value)

    return read


def _seconds(value: Any) -> float:
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd])", value) if isinstance(value, str) else None
    if found:
        return float(found[1]) * _DURATION_S[found[2]]
    try:
        return _number(0)(value)
    except _BadError as error:
        raise _BadError(f"{value!r}: use seconds, or a text such as 90s, 10m, 2h or 7d") from error


def _count(low: int = 0) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise _BadError(f"{value!r}: use a whole number of {low} or more")
        return value

    return read


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _BadError(f"{value!r}: use true or false")
    return value


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise _BadError(f"{value!r}: use a text")
    return value


def _list(read: Callable[[Any], Any], *, some: bool = False) -> Callable[[Any], tuple[Any, ...]]:
    def all_of(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str) or not isinstance(value, Sequence) or (some and not value):
            raise _BadError(f"{value!r}: use a list{' that is not empty' if some else ''}")
        return tuple(read(one) for one in value)

    return all_of


def _maybe(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda value: None if value is None else read(value)


def _one_of(*choices: str) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if value not in choices:
            raise _BadError(f"{value!r}: use one of {', '.join(choices)}")
        return str(value)

    return read


def _fraction(value: Any) -> Fraction | None:
    """A share over 0 up to 1, from ``1/3``, ``25%`` or ``0.25``; None when it is none of these."""
    try:
        if isinstance(value, bool):
            return None
        share = Fraction(value[:-1]) / 100 if isinstance(value, str) and value.endswith("%") else Fraction(str(value))
    except (ValueError, ZeroDivisionError):
        return None
    return share if 0 < share <= 1 else None


def _cap(value: Any) -> str:
    share = _fraction(value)
    if share is None:
        raise _BadError(f'{value!r}: use a share such as "1/3", "25%" or 0.25; 1 is no cap')
    return str(share)


def _size(least: int) -> Callable[[Any], Size]:
    def read(value: Any) -> Size:
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return Size(count=value)
        share = _fraction(value) if isinstance(value, str) and value.endswith("%") else None
        if share is None:
            raise _BadError(f'{value!r}: use a count of {least} or more, or a percentage such as "25%"')
        return Size(share=share)

    return read


def _wave_entry(value: Any) -> Any:
    """A mapping whose values are checked, or what stands for one."""
    if not isinstance(value, Mapping):
        return {"size": _size(1)(value)}
    try:
        found = _section(value, _WAVE_KEYS, "", "")
    except ControlError as error:
        raise _BadError(error.message.removeprefix(": ")) from error
    if "size" not in found:
        raise _BadError("an entry without size: give a count or a percentage")
    return found


def _freeze(value: Any) -> Freeze:
    if not isinstance(value, Mapping) or not {"start", "end"} <= set(value) <= {"start", "end", "reason"}:
        raise _BadError(f"{value!r}: use start, end and reason")
    times = [_moment(value[key]) for key in ("start", "end")]
    if times[0] >= times[1]:
        raise _BadError(f"it ends at {value['end']}, which is not after its start: {value['start']}")
    start, end = (moment.isoformat() for moment in times)
    return Freeze(start, end, str(value.get("reason") or ""))


def _moment(value: Any) -> datetime:
    # YAML reads an unquoted time as one, and drops the offset unless there is one.
    try:
        moment = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError as error:
        raise _BadError(f"{str(value)!r}: use a time such as 2026-12-24T18:00:00+01:00") from error
    if moment.tzinfo is None:
        raise _BadError(f"{str(value)!r}: which time zone? give an offset, such as {moment.isoformat()}+00:00")
    return moment


_SHARE = _number(0, 1, "a share")
_SOAK = _Keys({"min_s": _seconds, "max_s": _seconds, "min_connections": _count(), "min_bytes": _count()})
_WAVE_KEYS: Mapping[str, _Reader | _Keys] = {"size": _size(1), "name": _word, "approve": _flag, "soak": _SOAK}
_KEYS: Mapping[str, _Reader | _Keys] = {
    "waves": _list(_wave_entry, some=True),
    "canaries": _list(_word),
    "caps": _Keys(dict.fromkeys(LABELS, _cap)),
    "variables": _Keys(dict.fromkeys(LABELS, _word)),
    "soak": _SOAK,
    "gates": _Keys(
        {
            "min_share": _SHARE,
            "cpu_margin": _SHARE,
            "latency_margin": _SHARE,
            "throughput_margin": _SHARE,
            "alpha": _number(0.0001, 0.5, "an error rate"),
            "method": _one_of(*get_args(Method)),
            "otherwise": _one_of(*get_args(Otherwise)),
            "block_s": _number(1),
            "washout_s": _number(0),
            "on_inconclusive": _one_of(*get_args(Inconclusive)),
            "card_share": _SHARE,
            "fallback_margin": _SHARE,
            "anomaly_margin": _SHARE,
        }
    ),
    "approve": _list(_count(1)),
    "failure_budget": _size(0),
    "lease_s": _maybe(_seconds),
    "freezes": _list(_freeze),
    "drill_required": _flag,
    "drill_max_age_s": _seconds,
    "headroom_limit": _number(0.01, 1, "a share"),
    "headroom_peak": _maybe(_number(1)),
    "headroom_ratio": _maybe(_number(0.1)),
    "hw_min_eligible": _SHARE,
    "earlier": _one_of(*get_args(Earlier)),
    "skip_rungs": _flag,
    "include_done": _flag,
    "noise_hosts": _count(),
    "host_s": _number(0.01),
    "salt": _word,
}
