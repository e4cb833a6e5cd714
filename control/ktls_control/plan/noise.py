# SPDX-License-Identifier: Apache-2.0
"""Asks the judge what a wave could detect, from what hosts recorded. It is the judge's arithmetic, not ours."""

from __future__ import annotations

from collections.abc import Mapping

from .build import Detect, Seen
from .model import Gates, Soak


def detector(seen: Mapping[str, Seen]) -> Detect | None:
    """None where nothing was recorded, or the judge cannot say."""
    series = [one.series for one in seen.values() if one.series is not None]
    try:
        from ..judge.power import detectable  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None
    if not series:
        return None

    def detect(gates: Gates, soak: Soak, hosts: int) -> Mapping[str, float | None]:
        found: Mapping[str, float | None] = detectable(gates, soak, series, hosts)
        return found

    return detect
