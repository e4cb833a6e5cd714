# SPDX-License-Identifier: Apache-2.0
"""What is wrong with the phase in a simulation, as people write it: ``cpu +8% on nic_model=X``. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..errors import ControlError

Metric = Literal["cpu", "latency", "throughput", "errors"]

METRICS: tuple[Metric, ...] = ("cpu", "latency", "throughput", "errors")
LABELS = ("rack", "nic_model", "kernel")
EXAMPLE = "cpu +8% on nic_model=X; latency +20% on 30 hosts; throughput -5%; errors +0.1% on 5% of hosts; errors 2/min"

_FORM = re.compile(r"(?P<metric>\w+)\s+(?P<change>\S+)(?:\s+on\s+(?P<where>.+))?\Z")
_PERCENT = re.compile(r"(?P<sign>[+-]?)(?P<number>\d+(?:\.\d+)?)%\Z")
_RATE = re.compile(r"\+?(?P<number>\d+(?:\.\d+)?)/(?P<unit>s|min|h)\Z")
_COUNT = re.compile(r"(?P<count>\d+)\s+hosts?\Z")
_SHARE = re.compile(r"(?P<share>\d+(?:\.\d+)?)%\s+of\s+hosts\Z")
_UNITS = {"s": 1.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Where:
    """Which hosts: those with a label, a number of any, a share of any, or all of them (nothing set)."""

    label: tuple[str, str] | None = None
    hosts: int | None = None
    share: float | None = None

    def __str__(self) -> str:
        if self.label:
            return f"{self.label[0]}={self.label[1]}"
        if self.hosts is not None:
            return f"{self.hosts:,} hosts"
        return f"{self.share * 100:g}% of hosts" if self.share is not None else "every host"


@dataclass(frozen=True)
class Regression:
    """A change that the phase makes on some hosts, and nowhere while the phase is not in force.

    :param change: as a share of the metric without it (0.08 is 8 % more). Of ``errors``: share of requests that fail
        in addition.
    :param rate: of ``errors`` only, instead: failures per second and host; None: ``change`` counts.
    """

    metric: Metric
    change: float
    rate: float | None
    where: Where
    text: str


def parse(text: str) -> Regression:
    """:raises ControlError: ``bad_regression``."""
    words = " ".join(text.split())
    found = _FORM.match(words)
    if not found or found["metric"] not in METRICS:
        raise _bad(text, f"begins with one of {', '.join(METRICS)} and a change")
    metric: Metric = found["metric"]
    change, rate = _change(text, metric, found["change"])
    return Regression(metric, change, rate, _where(text, found["where"]), words)


def _change(text: str, metric: Metric, word: str) -> tuple[float, float | None]:
    rate = _RATE.match(word)
    if rate:
        if metric != "errors":
            raise _bad(text, f"a rate like {word} is for errors; give {metric} a percentage")
        return 0.0, float(rate["number"]) / _UNITS[rate["unit"]]
    percent = _PERCENT.match(word)
    if not percent:
        raise _bad(text, f"{word} is neither a percentage like +8% nor, for errors, a rate like 2/min")
    change = float(percent["number"]) / 100 * (-1 if percent["sign"] == "-" else 1)
    if change <= -1 or (metric == "errors" and not 0 <= change <= 1):
        raise _bad(text, f"{word} is out of range for {metric}")
    return change, None


def _where(text: str, words: str | None) -> Where:
    if words is None:
        return Where()
    count, share = _COUNT.match(words), _SHARE.match(words)
    if count:
        return Where(hosts=int(count["count"]))
    if share:
        if float(share["share"]) > 100:
            raise _bad(text, f"{share['share']}% of hosts is more than all")
        return Where(share=float(share["share"]) / 100)
    key, equals, value = words.partition("=")
    if equals and key.strip() in LABELS and value.strip():
        return Where(label=(key.strip(), value.strip()))
    raise _bad(text, f"after `on` comes KEY=VALUE ({', '.join(LABELS)}), `N hosts` or `P% of hosts`")


def _bad(text: str, why: str) -> ControlError:
    return ControlError("bad_regression", f"regression {text!r}: {why}. Examples: {EXAMPLE}")
