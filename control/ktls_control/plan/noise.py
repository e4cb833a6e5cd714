# SPDX-License-Identifier: Apache-2.0
"""Asks the judge what a wave could detect, from what hosts recorded. It is the judge's arithmetic, not ours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from .build import Detect, Seen
from .model import Gates, Soak


def detector(seen: Mapping[str, Seen]) -> Detect | None:
    """None where nothing was recorded, or the judge cannot say."""
    series = [one.series for one in seen.values() if one.series is not None and one.series.samples]
    if not series:
        return None
    try:
        from ..judge.power import detectable, noise  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None

    @cache
    def level(gates: Gates, soak: Soak) -> Any:
        return noise(gates, soak, series)

    def detect(gates: Gates, soak: Soak, hosts: int, others: int) -> Mapping[str, float | None]:
        found: Mapping[str, float | None] = detectable(gates, soak, level(gates, soak), hosts, others)
        return found

    return detect
