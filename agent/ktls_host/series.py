# SPDX-License-Identifier: Apache-2.0
"""All pages of an agent's series as one, for whoever asks over its socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import KtlsError

_MOST_PAGES = 64


def fetch(ask: Callable[[dict[str, Any]], dict[str, Any]], since_s: float | None = None) -> dict[str, Any]:
    """Return ``{"ok": true, "series": {...}}`` with every sample after ``since_s`` (CLOCK_BOOTTIME of the host).

    ``ask`` sends one request and returns its answer. Raises :class:`KtlsError`: those of ``ask``, and ``protocol``.
    """
    joined: dict[str, Any] | None = None
    since = since_s
    for _ in range(_MOST_PAGES):
        answer = ask({"verb": "series", **({} if since is None else {"since_s": since})})
        series = answer.get("series")
        if not isinstance(series, dict) or not isinstance(series.get("samples"), dict):
            raise KtlsError("protocol", "the agent answered without a series; deploy the release of the control node")
        if joined is not None and _origin(joined) != _origin(series):
            raise KtlsError("protocol", "the agent started anew while its series was read; ask again")
        joined = series if joined is None else join(joined, series)
        if not series.get("more"):
            return {"ok": True, "series": joined}
        since = float(series["next_since_s"])
    raise KtlsError("protocol", f"the agent's series did not end after {_MOST_PAGES} pages")


def join(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Return two pages of one ring as one; ``second`` is the newer, and what it says of now is kept."""
    samples: dict[str, Any] = {}
    length = len(first["samples"]["at_ms"])
    for name, column in second["samples"].items():
        before = first["samples"][name]
        if isinstance(column, dict):
            samples[name] = {**before, **{str(int(index) + length): value for index, value in column.items()}}
        else:
            samples[name] = [*before, *column]
    return {**second, "samples": samples}


def _origin(series: dict[str, Any]) -> tuple[Any, Any]:
    return series.get("boot_id"), series.get("began_s")
