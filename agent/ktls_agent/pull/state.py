# SPDX-License-Identifier: Apache-2.0
"""What is known of all endpoints together, and what a poll means for it. Pure: all it can ask for is OFF, or nothing.

Times are seconds of CLOCK_BOOTTIME, which every process of the host shares and no change of the date moves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ktls_host.flag_document import OFF, Flag

from .watch import NO_SERVER, Poll, issued

REPEAT_S = 600.0
"""A state that stays is logged again after this time."""
ALARM_S = 300.0
"""An old flag is alarmed once in this time at most, whatever a server replays."""


@dataclass
class EndpointState:
    """One endpoint. ``valid_s``: when it last served a valid flag; the other facts of that flag lie beside it."""

    url: str
    result: str = "not_polled"
    detail: str = ""
    polled_s: float | None = None
    failures: int = 0
    polls: dict[str, int] = field(default_factory=dict)
    not_modified: int = 0
    old: int = 0
    valid_s: float | None = None
    state: str | None = None
    serial: int | None = None
    issued_at: int | None = None
    reason: str | None = None
    key: str | None = None
    said: tuple[str, str] = ("", "")
    said_s: float = 0.0
    alarmed_s: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What is to be done after a poll: raise OFF for ``off`` if it is there, and log ``lines`` (level, text)."""

    off: str | None = None
    lines: tuple[tuple[str, str], ...] = ()


class PullState:
    """All endpoints of one fleet. Not safe between threads by itself."""

    def __init__(self, fleet: str, urls: Sequence[str], serial: int = 0) -> None:
        """``serial``: the highest one seen before."""
        self.fleet = fleet
        self.serial = serial
        self.raised = 0
        self.endpoints = {url: EndpointState(url) for url in urls}

    def took(self, url: str, poll: Poll, now_s: float) -> Outcome:
        """Note a poll of ``url``."""
        endpoint, verdict = self.endpoints[url], poll.verdict
        endpoint.result, endpoint.detail, endpoint.polled_s = verdict.result, verdict.detail, now_s
        endpoint.polls[verdict.result] = endpoint.polls.get(verdict.result, 0) + 1
        endpoint.not_modified += poll.not_modified
        endpoint.failures = endpoint.failures + 1 if verdict.result in NO_SERVER else 0
        lines: list[tuple[str, str]] = []
        flag = verdict.flag
        if flag is not None:
            endpoint.valid_s, endpoint.key = now_s, verdict.key
            endpoint.state, endpoint.serial, endpoint.issued_at = flag.state, flag.serial, flag.issued_at
            endpoint.reason = flag.reason
            if flag.serial < self.serial:
                endpoint.old += 1
                if endpoint.alarmed_s is None or now_s - endpoint.alarmed_s >= ALARM_S:
                    endpoint.alarmed_s = now_s
                    lines.append(("error", f"{url}: {_old(flag, self.serial)}"))
            self.serial = max(self.serial, flag.serial)
        says = (verdict.result, verdict.detail if flag is None else f"{flag.serial}")
        if says != endpoint.said or now_s - endpoint.said_s >= REPEAT_S:
            endpoint.said, endpoint.said_s = says, now_s
            lines.append(_line(url, poll, self.fleet))
        return Outcome(_off(url, flag) if flag is not None and flag.state == OFF else None, tuple(lines))

    def problems(self) -> list[str]:
        """Return what an operator should know of the endpoints, one line each."""
        found = []
        for endpoint in self.endpoints.values():
            if endpoint.valid_s is not None and endpoint.serial is not None and endpoint.serial < self.serial:
                found.append(f"{endpoint.url} serves an old flag: serial {endpoint.serial}, {self.serial} was seen")
            if endpoint.polled_s is not None and endpoint.result not in ("off", "none"):
                found.append(f"{endpoint.url} gives no valid flag ({endpoint.result}): {endpoint.detail}")
        return found

    def as_dict(self) -> dict[str, Any]:
        """Return the picture for the status file."""
        endpoints = []
        for endpoint in self.endpoints.values():
            entry = asdict(endpoint)
            for private in ("said", "said_s", "alarmed_s"):
                del entry[private]
            endpoints.append(entry)
        says = {e.state for e in self.endpoints.values() if e.result in ("off", "none")}
        state = "off" if "off" in says else "none" if says else "unknown"
        return {
            "fleet": self.fleet,
            "state": state,
            "serial": self.serial or None,
            "raised": self.raised,
            "endpoints": endpoints,
        }


def serial_of(status: object, fleet: str) -> int:
    """Return the highest serial that an earlier status file of ``fleet`` knows, 0 if none."""
    if isinstance(status, Mapping) and status.get("fleet") == fleet:
        serial = status.get("serial")
        if isinstance(serial, int) and not isinstance(serial, bool) and 0 < serial < 10**15:
            return serial
    return 0


def _off(url: str, flag: Flag) -> str:
    """Return the reason of the off flag. It has to tell whoever clears it why it comes back."""
    return f"signed flag {flag.serial}: {flag.reason} (from {url}; publish none before you clear)"


def _old(flag: Flag, seen: int) -> str:
    what = "OFF acts nevertheless" if flag.state == OFF else "nothing changes"
    return f"an old flag, serial {flag.serial} after {seen}: the server was not updated, or replays; {what}"


def _line(url: str, poll: Poll, fleet: str) -> tuple[str, str]:
    verdict, flag = poll.verdict, poll.verdict.flag
    if flag is None:
        return "warning", f"{url}: no valid flag ({verdict.result}): {verdict.detail}; nothing changes"
    text = f"{url}: flag {flag.serial} of {fleet}, issued {issued(flag.issued_at)}, says {flag.state}: {flag.reason}"
    return ("warning" if flag.state == OFF else "info"), f"{text} (key {verdict.key})"
