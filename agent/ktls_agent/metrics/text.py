# SPDX-License-Identifier: Apache-2.0
"""Families as Prometheus text, format 0.0.4.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/. A scrape is taken whole or not at all, so one bad
line of one part would hide everything: :func:`unite` leaves out what breaks the format and says so.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache

from .family import Family, Sample

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SERIES = ("_bucket", "_sum", "_count")
KINDS = ("counter", "gauge", "histogram")
_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*\Z")
_LABEL = re.compile(r"(?!__)[a-zA-Z_][a-zA-Z0-9_]*\Z")
_EXACT = 2**53  # above it not every integer is a float64, which is all that Prometheus has

_Key = tuple[str, tuple[tuple[str, str], ...]]


def render(families: Iterable[Family]) -> str:
    """Return the exposition of ``families``, which :func:`unite` has made fit. Empty families are left out."""
    lines: list[str] = []
    for family in families:
        if family.samples:
            lines.append(f"# HELP {family.name} {_escape_help(family.help)}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            lines.extend(_line(family.name, sample) for sample in family.samples)
    return "".join(f"{line}\n" for line in lines)


def unite(families: Iterable[Family]) -> tuple[list[Family], list[str]]:
    """Join families of one name and sort everything; return them, and one line for each thing that was left out.

    Order: families by name, samples by labels, buckets by bound, then sum and count.
    """
    faults: list[str] = []
    first: dict[str, Family] = {}
    samples: dict[str, dict[_Key, Sample]] = {}
    for family in families:
        fault = _family_fault(family)
        if fault is None and family.name in first and first[family.name].kind != family.kind:
            fault = f"is a {first[family.name].kind} already"
        if fault is not None:
            faults.append(f"{family.name}: {fault}")
            continue
        first.setdefault(family.name, family)
        table = samples.setdefault(family.name, {})
        for sample in family.samples:
            problem = _sample_fault(family.kind, sample)
            # For Prometheus an empty label is no label.
            key = (sample.suffix, tuple(sorted(item for item in sample.labels.items() if item[1])))
            if problem is None and key in table:
                problem = "the same labels twice"
            if problem is not None:
                faults.append(f"{family.name}: {problem}")
            else:
                table[key] = sample
    united = []
    for name in sorted(first):
        family = first[name]
        if family.kind == "histogram":
            chosen, problems = _histogram(samples[name].values())
            faults.extend(f"{name}: {problem}" for problem in problems)
        else:
            chosen = [samples[name][key] for key in sorted(samples[name])]
        united.append(Family(name, family.kind, family.help, tuple(chosen)))
    return united, faults


def number(value: float) -> str:
    """Return ``value`` as the format writes it, without loss."""
    if isinstance(value, int) and abs(value) <= _EXACT:
        return str(int(value))
    value = float(value)
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value.is_integer() and abs(value) <= _EXACT else repr(value)


def _family_fault(family: Family) -> str | None:
    if not _NAME.match(family.name):
        return "is no name of a metric"
    if family.kind not in KINDS:
        return f"is of no known kind: {family.kind}"
    if (family.kind == "counter") != family.name.endswith("_total"):
        return "counters end in _total, and nothing else does"
    if family.kind != "histogram" and family.name.endswith(("_bucket", "_sum", "_count")):
        return "ends as the series of a histogram do"
    return None


def _sample_fault(kind: str, sample: Sample) -> str | None:
    if sample.suffix not in (_SERIES if kind == "histogram" else ("",)):
        return f"a {kind} has no series {sample.suffix!r}"
    if not all(map(_is_label, sample.labels)):
        return f"bad label in {sorted(sample.labels)}"
    if ("le" in sample.labels) != (sample.suffix == "_bucket"):
        return "le belongs to buckets, and to nothing else"
    if kind == "counter" and not (sample.value >= 0 and math.isfinite(sample.value)):
        return f"a counter cannot be {sample.value}"
    return None


@lru_cache(maxsize=256)
def _is_label(name: str) -> bool:
    return _LABEL.match(name) is not None


def _histogram(samples: Iterable[Sample]) -> tuple[list[Sample], list[str]]:
    """Order the series of a histogram, each set of labels by itself; drop sets that are no cumulative histogram."""
    groups: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in samples:
        plain = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
        groups.setdefault(plain, []).append(sample)
    ordered: list[Sample] = []
    faults = []
    for plain in sorted(groups):
        by_suffix = {suffix: [s for s in groups[plain] if s.suffix == suffix] for suffix in _SERIES}
        try:
            buckets = sorted(by_suffix["_bucket"], key=_bound)
        except ValueError:
            faults.append(f"a bound that is no number, with labels {dict(plain)}")
            continue
        counts = [bucket.value for bucket in buckets]
        total = by_suffix["_count"][0].value if by_suffix["_count"] else None
        whole = (
            buckets
            and len({_bound(bucket) for bucket in buckets}) == len(buckets)
            and _bound(buckets[-1]) == math.inf
            and counts == sorted(counts)
            and total == counts[-1]
            and by_suffix["_sum"]
        )
        if whole:
            ordered += [*buckets, *by_suffix["_sum"], *by_suffix["_count"]]
        else:
            faults.append(f"not a whole histogram, with labels {dict(plain)}")
    return ordered, faults


def _bound(bucket: Sample) -> float:
    value = float(bucket.labels["le"])
    if math.isnan(value):
        raise ValueError("not a bound")
    return value


def _line(name: str, sample: Sample) -> str:
    return f"{name}{sample.suffix}{_labels(sample.labels)} {number(sample.value)}"


def _labels(labels: Mapping[str, str]) -> str:
    return _rendered(tuple(sorted(labels.items())))


@lru_cache(maxsize=2048)
def _rendered(labels: tuple[tuple[str, str], ...]) -> str:
    """Scrapes bring the same labels again and again."""
    inside = ",".join(f'{name}="{_escape(str(value))}"' for name, value in labels)
    return f"{{{inside}}}" if inside else ""


def _escape(value: str) -> str:
    return _utf8(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _escape_help(value: str) -> str:
    return _utf8(" ".join(value.split())).replace("\\", "\\\\")


def _utf8(value: str) -> str:
    """Return ``value`` with a question mark for each lone surrogate: names of files and programs may hold any byte."""
    return value.encode("utf-8", "replace").decode("utf-8")
