# SPDX-License-Identifier: Apache-2.0
"""A verdict as the journal has it (a ``judge.model.WaveVerdict`` as a dict), for views. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..plan.model import Plan
from . import words

Verdict = Mapping[str, Any]
_USUAL_LIMIT = 20.0


_FIELDS: Verdict = {"outcome": "inconclusive", "reasons": [], "metrics": [], "e_value": None, "e_path": [], "hosts": {}}
_METRIC_FIELDS: Verdict = {
    "name": "?", "outcome": "inconclusive", "effect": None, "low": None, "high": None, "margin": 0.0, "test": "",
    "p": None, "n": 0, "detail": "", "gating": True,
}  # fmt: skip


def whole(verdict: Verdict) -> dict[str, Any]:
    """The same with every key that a verdict may have: journals of other releases are read too."""
    return {
        **_FIELDS,
        **verdict,
        "metrics": [{**_METRIC_FIELDS, **one} for one in verdict.get("metrics") or ()],
        "reasons": list(verdict.get("reasons") or ()),
        "hosts": dict(verdict.get("hosts") or {}),
    }


def metrics(verdict: Verdict) -> list[Mapping[str, Any]]:
    """Every metric."""
    return list(verdict.get("metrics") or ())


def shown(verdict: Verdict) -> list[Mapping[str, Any]]:
    """Metrics worth a picture: those that have to pass, and others that failed. The error test has its own."""
    return [one for one in metrics(verdict) if not _of_errors(one) and _worth(one)]


def _of_errors(metric: Mapping[str, Any]) -> bool:
    """The error test, of whatever datapath."""
    return str(metric["name"]).partition("@")[0] == "errors"


def _worth(metric: Mapping[str, Any]) -> bool:
    if metric["outcome"] == "pass":
        return metric.get("gating", True) and _measured(metric)
    return bool(metric["outcome"] == "fail" or metric.get("gating", True))


def reasons(verdict: Verdict) -> list[str]:
    """Why it did not pass; for one that did, its metrics say it."""
    return [] if verdict["outcome"] == "pass" else [str(reason) for reason in verdict.get("reasons") or ()]


def explained(metric: Mapping[str, Any]) -> str:
    """One metric with everything behind it."""
    name, effect = words.metric(metric["name"]), metric.get("effect")
    bounds = f" {words.interval(metric.get('low'), metric.get('high'))}" if _measured(metric) else ""
    told = "" if effect is None else f" {words.percent(effect, sign=True)}{bounds}"
    margin = f", accepted up to {words.percent(metric['margin'], sign=True)}" if metric.get("margin") else ""
    behind = [metric.get("detail") or metric.get("test") or "no data"]
    behind += [f"p={metric['p']:.2g}"] if metric.get("p") is not None else []
    return f"{name}{told}{margin}: {metric['outcome']} ({', '.join(behind)})"


def _measured(metric: Mapping[str, Any]) -> bool:
    return metric.get("low") is not None or metric.get("high") is not None


def limit(verdict: Verdict, plan: Plan | None) -> float:
    """E-value at which the error test ends the wave."""
    if verdict.get("e_limit"):
        return float(verdict["e_limit"])
    return 2 / plan.gates.alpha if plan and plan.gates.alpha else _USUAL_LIMIT


def path(verdict: Verdict) -> list[float]:
    """The E-values, oldest first."""
    return [float(value) for value in verdict.get("e_path") or () if isinstance(value, (int, float))]


def numbers(verdict: Verdict, at: float | None = None) -> list[str]:
    """One short text for each metric, and for the E-value; ``at``: where it ends the wave."""
    found = []
    for one in shown(verdict):
        mark = {"pass": "", "fail": " ✘", "inconclusive": " ?"}[one["outcome"]]
        name = words.metric(one["name"])
        if one.get("effect") is None:
            found.append(f"{name}{mark} {one.get('detail') or 'no data'}")
            continue
        bounds = f" {words.interval(one.get('low'), one.get('high'))}" if _measured(one) else ""
        found.append(f"{name} {words.percent(one['effect'], sign=True)}{bounds}{mark}")
    if verdict.get("e_value") is not None:
        found.append(f"errors E={words.e_value(verdict['e_value'])}{f' (aborts at {at:g})' if at else ''}")
    else:
        errors = [one for one in metrics(verdict) if _of_errors(one) and one["outcome"] != "pass"]
        found += [f"{words.metric(one['name'])}: {one.get('detail') or one['outcome']}" for one in errors]
    return found
