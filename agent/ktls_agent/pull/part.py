# SPDX-License-Identifier: Apache-2.0
"""The fetcher as the agent shows it: its status file, in the status object and as metrics. Nothing of it is obeyed."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterable, Mapping
from typing import Any, Callable

from ..metrics.family import Family, Sample
from .config import STATUS_PATH

EVERY_S = 2.0
SILENT_S = 30.0
"""A status file older than this is that of a fetcher that has died."""
_MAX = 64 * 1024


def _boottime_s() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class PullPart:
    """Reads the status file now and then. ``name`` is its key in the status object."""

    name = "pull"

    def __init__(self, path: str = STATUS_PATH, clock: Callable[[], float] = _boottime_s) -> None:
        """Read from ``path``; a host without it does not pull."""
        self._path = path
        self._clock = clock
        self._seen: dict[str, Any] = {}

    async def run(self) -> None:
        """Read again and again; the file is small and in memory."""
        while True:
            self.read()
            await asyncio.sleep(EVERY_S)

    def read(self) -> None:
        """Read the file now. One that is no status of ours counts as none."""
        try:
            with open(self._path, encoding="utf-8") as stream:
                found = json.loads(stream.read(_MAX))
            good = isinstance(found, dict) and isinstance(found["endpoints"], list) and float(found["written_s"]) >= 0
            self._seen = found if good else {}
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            self._seen = {}

    def status(self) -> dict[str, Any]:
        """Return what the fetcher says, with ages in seconds; ``{"running": false}`` where there is none."""
        if not self._seen:
            return {"running": False}
        seen, age = dict(self._seen), self._age(self._seen["written_s"])
        endpoints = [self._endpoint(entry) for entry in seen.pop("endpoints") if isinstance(entry, Mapping)]
        valid = [entry["age_s"] for entry in endpoints if entry["age_s"] is not None]
        problems = [str(problem) for problem in seen.pop("problems", [])]
        running = age is not None and age <= SILENT_S
        if not running:
            problems.insert(0, "ktls-pull.service does not run: signed flags are not read; start it")
        for private in ("schema", "version", "pid", "boot_id", "written_s"):
            seen.pop(private, None)
        seen.update(running=running, age_s=min(valid) if valid else None, endpoints=endpoints, problems=problems)
        return seen

    def metrics(self) -> Iterable[Family]:
        """Return the families; none on a host that does not pull."""
        if not self._seen:
            return []
        entries = [entry for entry in self._seen["endpoints"] if isinstance(entry, Mapping)]
        written = self._age(self._seen["written_s"])
        serial = self._seen.get("serial")
        one = [
            _gauge("ktls_flag_fetcher_age_seconds", "Time since the fetcher last showed life.", [({}, written)]),
            _gauge("ktls_flag_serial", "Highest serial of a valid flag that was seen.", [({}, serial)]),
            _counter("ktls_flag_raised_total", "Off flags raised for a signed flag.", [({}, self._seen.get("raised"))]),
        ]
        return [family for family in (*one, *self._by_endpoint(entries)) if family.samples]

    def _by_endpoint(self, entries: list[Mapping[str, Any]]) -> Iterable[Family]:
        def each(pick: Callable[[Mapping[str, Any]], Any]) -> list[tuple[dict[str, str], Any]]:
            return [({"endpoint": str(entry.get("url"))}, pick(entry)) for entry in entries]

        polls = [
            ({"endpoint": str(entry.get("url")), "result": str(result)}, count)
            for entry in entries
            for result, count in sorted(dict(entry.get("polls") or {}).items())
        ]
        yield _gauge(
            "ktls_flag_age_seconds", "Time since an endpoint last served a valid flag.",
            each(lambda entry: self._age(entry.get("valid_s"))),
        )  # fmt: skip
        yield _gauge(
            "ktls_flag_valid", "1 if the last poll of the endpoint found a valid flag.",
            each(lambda entry: float(entry.get("result") in ("off", "none"))),
        )  # fmt: skip
        yield _gauge(
            "ktls_flag_off", "1 if the last poll of the endpoint found a valid flag that says off.",
            each(lambda entry: float(entry.get("result") == "off")),
        )  # fmt: skip
        yield _gauge(
            "ktls_flag_issued_timestamp_seconds", "When the last valid flag of an endpoint was signed, by its signer.",
            each(lambda entry: entry.get("issued_at")),
        )  # fmt: skip
        yield _counter("ktls_flag_polls_total", "Polls of an endpoint by result.", polls)
        yield _counter(
            "ktls_flag_not_modified_total", "Polls that an endpoint answered with 'not modified'.",
            each(lambda entry: entry.get("not_modified")),
        )  # fmt: skip
        yield _counter(
            "ktls_flag_old_total", "Polls that found a valid flag with a lower serial than one seen before.",
            each(lambda entry: entry.get("old")),
        )  # fmt: skip

    def _endpoint(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        kept = ("url", "result", "detail", "state", "serial", "issued_at", "reason", "key", "failures", "old")
        shown = {key: entry.get(key) for key in kept}
        return {**shown, "age_s": self._age(entry.get("valid_s")), "polled_age_s": self._age(entry.get("polled_s"))}

    def _age(self, then_s: object) -> float | None:
        if isinstance(then_s, bool) or not isinstance(then_s, (int, float)):
            return None
        return round(max(0.0, self._clock() - then_s), 3)


def _gauge(name: str, text: str, values: list[tuple[dict[str, str], Any]]) -> Family:
    return Family(name, "gauge", text, _samples(values))


def _counter(name: str, text: str, values: list[tuple[dict[str, str], Any]]) -> Family:
    return Family(name, "counter", text, _samples(values))


def _samples(values: list[tuple[dict[str, str], Any]]) -> tuple[Sample, ...]:
    return tuple(
        Sample(float(value), labels)
        for labels, value in values
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    )
