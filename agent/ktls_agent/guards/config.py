# SPDX-License-Identifier: Apache-2.0
"""The section ``guards`` of the agent's configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from ktls_host.errors import KtlsError

from .rules import RULES, Setting

_LEAST_PROBE_S = 2.0
_LEAST_INTERVAL_S = 0.5


@dataclass(frozen=True)
class GuardsConfig:
    """Which invariants trip the kill switch, and when.

    ``interval_s``: between two looks. ``probe_interval_s``: between two self-probes, on average. ``dry_run``: tell, and
    do not switch off. ``keep``: how many evidence files stay. ``rules``: settings by name, each in whole.
    """

    interval_s: float = 5.0
    probe_interval_s: float = 30.0
    dry_run: bool = False
    keep: int = 20
    rules: Mapping[str, Setting] = field(default_factory=dict)


def parse(raw: Any, source: str) -> GuardsConfig:
    """Check ``raw``; an empty object is the default. Raises :class:`KtlsError`: bad_config."""
    raw = dict(_object(raw, source, "guards"))
    found: dict[str, Any] = {}
    for key, least in (("interval_s", _LEAST_INTERVAL_S), ("probe_interval_s", _LEAST_PROBE_S)):
        if key in raw:
            found[key] = _number(raw.pop(key), source, key, least)
    if "dry_run" in raw:
        found["dry_run"] = _flag(raw.pop("dry_run"), source, "dry_run")
    if "keep" in raw:
        found["keep"] = _count(raw.pop("keep"), source, "keep")
    rules = dict(_object(raw.pop("rules", {}), source, "guards.rules"))
    for key in raw:
        raise _bad(source, f"unknown key guards.{key}")
    found["rules"] = {rule.name: _setting(rules.pop(rule.name, {}), rule.default, source, rule.name) for rule in RULES}
    for key in rules:
        raise _bad(source, f"unknown key guards.rules.{key}; there are {', '.join(rule.name for rule in RULES)}")
    return GuardsConfig(**found)


def _setting(raw: Any, default: Setting, source: str, name: str) -> Setting:
    raw = dict(_object(raw, source, f"guards.rules.{name}"))
    found: dict[str, Any] = {}
    for known in fields(Setting):
        if known.name not in raw:
            continue
        key, value = f"rules.{name}.{known.name}", raw.pop(known.name)
        if known.name == "enabled":
            found[known.name] = _flag(value, source, key)
        elif known.name == "windows":
            found[known.name] = _count(value, source, key)
        else:
            found[known.name] = _number(value, source, key, 0.0 if known.name in ("ratio", "cooldown_s") else 1.0)
    for key in raw:
        raise _bad(source, f"unknown key guards.rules.{name}.{key}")
    setting = replace(default, **found)
    if setting.ratio > 1:
        raise _bad(source, f"guards.rules.{name}.ratio is not a number from 0 to 1")
    return setting


def _object(raw: Any, source: str, key: str) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise _bad(source, f"{key} is not an object")
    return raw


def _number(raw: Any, source: str, key: str, least: float) -> float:
    if isinstance(raw, bool) or not isinstance(raw, (int, float)) or not math.isfinite(raw) or raw < least:
        raise _bad(source, f"guards.{key} is not a number of at least {least:g}")
    return float(raw)


def _count(raw: Any, source: str, key: str) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int) or raw < 1:
        raise _bad(source, f"guards.{key} is not a whole number of at least 1")
    return raw


def _flag(raw: Any, source: str, key: str) -> bool:
    if not isinstance(raw, bool):
        raise _bad(source, f"guards.{key} is not true or false")
    return raw


def _bad(source: str, what: str) -> KtlsError:
    return KtlsError("bad_config", f"{source}: {what}; correct it and restart the agent")
