# SPDX-License-Identifier: Apache-2.0
"""Asks the judge what a wave could detect, from what hosts recorded. It is the judge's arithmetic, not ours."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ktls_host import datapath_status

from ..judge.model import HostSeries
from .build import Detect, Seen
from .model import Gates, Soak


def detector(seen: Mapping[str, Seen]) -> Detect | None:
    """None where nothing was recorded, or the judge cannot say."""
    by_kind: dict[str, list[HostSeries]] = {}
    for one in seen.values():
        if one.series is not None and one.series.samples:
            by_kind.setdefault(datapath_status.of(one.status).name, []).append(one.series)
    if not by_kind:
        return None
    try:
        from ..judge.power import detectable, noise  # type: ignore[import-not-found, unused-ignore]
    except ImportError:
        return None

    @cache
    def level(gates: Gates, soak: Soak, kind: str) -> Any:
        return noise(gates, soak, by_kind[kind])

    def detect(gates: Gates, soak: Soak, hosts: int, others: int, kind: str) -> Mapping[str, float | None]:
        if kind not in by_kind:
            return dict.fromkeys(("cpu", "latency", "throughput", "errors"))
        found: Mapping[str, float | None] = detectable(gates, soak, level(gates, soak, kind), hosts, others)
        return found

    return detect
