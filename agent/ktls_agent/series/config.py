# SPDX-License-Identifier: Apache-2.0
"""The section ``series`` of the agent's configuration."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ktls_host.errors import KtlsError

_MOST_SAMPLES = 20_000  # some 3 MB of memory


@dataclass(frozen=True)
class SeriesConfig:
    """How long an interval is, and how far back they are kept, in seconds."""

    period_s: float = 5.0
    keep_s: float = 4 * 3600.0

    @property
    def size(self) -> int:
        """How many samples are kept."""
        return max(1, int(self.keep_s / self.period_s))


def parse(raw: Any, source: str) -> SeriesConfig:
    """Check ``raw``; an empty object is the default. Raises :class:`KtlsError`: bad_config."""
    if not isinstance(raw, dict):
        raise _bad(source, "series is not an object")
    raw = dict(raw)
    default = SeriesConfig()
    found = SeriesConfig(
        period_s=_seconds(raw.pop("period_s", default.period_s), 1, 300, source, "period_s"),
        keep_s=_seconds(raw.pop("keep_s", default.keep_s), 60, 7 * 86400, source, "keep_s"),
    )
    for key in raw:
        raise _bad(source, f"unknown key series.{key}")
    if found.size > _MOST_SAMPLES:
        raise _bad(source, f"series.keep_s holds {found.size} samples of period_s; at most {_MOST_SAMPLES} are kept")
    return found


def _seconds(value: Any, least: float, most: float, source: str, key: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not least <= value <= most:
        raise _bad(source, f"series.{key} is not a number of seconds from {least:g} to {most:g}")
    return float(value)


def _bad(source: str, what: str) -> KtlsError:
    return KtlsError("bad_config", f"{source}: {what}; correct it and restart the agent")
