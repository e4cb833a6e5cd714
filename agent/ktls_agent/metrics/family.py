# SPDX-License-Identifier: Apache-2.0
"""A metric family as data. Names and units follow https://prometheus.io/docs/practices/naming/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sample:
    """One line of a family. ``suffix`` is ``_bucket``, ``_sum`` or ``_count`` in a histogram, else empty."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)
    suffix: str = ""


@dataclass(frozen=True)
class Family:
    """``kind`` is ``counter``, ``gauge`` or ``histogram``. A counter's ``name`` ends in ``_total``."""

    name: str
    kind: str
    help: str
    samples: tuple[Sample, ...]
