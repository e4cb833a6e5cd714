# SPDX-License-Identifier: Apache-2.0
"""The part named ``drill``: what the last drill of this host came to. Whoever drills tells it; here it is kept.

In the trail, in one file, in the status and in the metrics. It decides nothing.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Iterable
from typing import Any, Callable

from ktls_host.errors import KtlsError
from ktls_host.files import atomic_write
from ktls_host.jsonsock import RequestError

from .audit import Audit
from .metrics.catalogue import family
from .metrics.family import Family, Sample

_MAX = 16 * 1024
_KEYS = {"id", "ok", "at", "step", "why", "left", "durations", "host"}

InThread = Callable[..., Awaitable[Any]]


class DrillPart:
    """Keeps the last drill, and when the last one passed."""

    name = "drill"

    def __init__(self, path: str, audit: Audit, in_thread: InThread) -> None:
        """``path``: the file that outlives us. ``in_thread`` runs what waits for the disk."""
        self._path = path
        self._audit = audit
        self._in_thread = in_thread
        self._last: dict[str, Any] | None = None
        self._passed_at: float | None = None
        self._problem: str | None = None

    async def run(self) -> None:
        """Read what an agent before us kept; then nothing."""
        found = await self._in_thread(_read, self._path)
        if found is not None and self._last is None:
            self._last, self._passed_at = found
        await asyncio.Event().wait()

    async def keep(self, raw: object) -> None:
        """Keep the result of a drill. Raises :class:`RequestError`: bad_request."""
        drill = checked(raw)
        self._last = drill
        self._passed_at = drill["at"] if drill["ok"] else self._passed_at
        self._audit.record("drill", **{key: drill[key] for key in ("id", "ok", "step", "why", "left", "durations")})
        content = json.dumps({"schema": 1, "last": drill, "passed_at": self._passed_at}, sort_keys=True) + "\n"
        try:
            await self._in_thread(atomic_write, self._path, content.encode(), 0o644)
            self._problem = None
        except (OSError, KtlsError) as error:
            self._problem = f"the last drill is not on disk ({' '.join(str(error).split())}); free or repair it"

    def status(self) -> dict[str, Any]:
        """Return the last drill, null before the first; ``passed_at``: when one last passed, Unix time."""
        return {"last": self._last, "passed_at": self._passed_at, "problem": self._problem}

    def metrics(self) -> Iterable[Family]:
        """Return when a drill last passed, and whether the last one did; nothing before the first."""
        if self._passed_at is not None:
            yield family("ktls_drill_last_success_timestamp_seconds", [Sample(self._passed_at)])
        if self._last is not None:
            yield family("ktls_drill_success", [Sample(float(self._last["ok"]))])


def checked(raw: object) -> dict[str, Any]:
    """Return ``raw`` if it is a drill's result. Raises :class:`RequestError`: bad_request."""
    if not isinstance(raw, dict) or set(raw) != _KEYS or len(json.dumps(raw)) > _MAX:
        raise RequestError("bad_request", f"drilled: use an object with {', '.join(sorted(_KEYS))}, not too long")
    at = raw["at"]
    if isinstance(at, bool) or not isinstance(at, (int, float)) or not math.isfinite(at) or at < 0:
        raise RequestError("bad_request", "drilled at: use Unix time in seconds")
    texts = all(isinstance(raw[key], str) for key in ("id", "step", "why", "left"))
    if not isinstance(raw["ok"], bool) or not texts or not all(isinstance(raw[k], dict) for k in ("durations", "host")):
        raise RequestError(
            "bad_request", "drilled: ok is true or false, words are text, durations and host are objects"
        )
    return dict(raw)


def _read(path: str) -> tuple[dict[str, Any], float | None] | None:
    """Return what was kept; nothing that cannot be read counts."""
    try:
        with open(path, encoding="utf-8") as stream:
            found = json.loads(stream.read(2 * _MAX))
        passed = found["passed_at"]
        return checked(found["last"]), None if passed is None else float(passed)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, RequestError):
        return None
