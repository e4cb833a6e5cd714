# SPDX-License-Identifier: Apache-2.0
"""One endpoint: asks it, remembers what it said, and tells what that is worth now."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from .fetch import Answer, FetchError
from .verify import Verdict, Verifier

FULL_EVERY = 10
"""Every so many polls the whole flag is fetched: validators of a server, or of a cache before it, may be wrong."""
NO_SERVER = frozenset({"timeout", "unreachable", "dns", "tls", "busy", "internal"})
"""Results after which polls become rarer. A server that answers anything at all is asked at the usual pace."""
_ETAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e]{0,200}"\Z')


class Source(Protocol):
    """What a :class:`~ktls_agent.pull.fetch.Fetcher` does."""

    def get(self, headers: Mapping[str, str]) -> Answer:
        """Fetch. Raises :class:`FetchError`."""


@dataclass(frozen=True)
class Poll:
    """What one poll found. ``verdict.flag`` is there if, and only if, the endpoint serves a valid flag now."""

    verdict: Verdict
    not_modified: bool = False


class Watch:
    """Polls one endpoint. For one thread."""

    def __init__(self, source: Source, verifier: Verifier, agent: str) -> None:
        """``agent``: how we call ourselves to the server."""
        self._source = source
        self._verifier = verifier
        self._agent = agent
        self._body: bytes | None = None
        self._validators: dict[str, str] = {}
        self._conditional = 0

    def poll(self) -> Poll:
        """Ask once. Never raises :class:`FetchError`: what went wrong is the verdict."""
        asked = self._validators if self._conditional < FULL_EVERY else {}
        try:
            answer = self._source.get({"User-Agent": self._agent, "Cache-Control": "no-cache", **asked})
        except FetchError as error:
            return Poll(Verdict(error.result, error.detail))
        if answer.status == 304:
            if not asked or self._body is None:
                return Poll(Verdict("protocol", "'not modified' (304), which was not asked for"))
            self._conditional += 1
            return Poll(self._verifier.check(self._body), not_modified=True)
        if answer.status != 200:
            return Poll(_other(answer.status))
        self._body = answer.body
        self._validators = validators(answer.headers)
        self._conditional = 0
        return Poll(self._verifier.check(answer.body))


def validators(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the request headers that ask for a change only (RFC 9110, 13.1.2).

    An entity tag, or nothing. A date is no use here: servers may take If-Modified-Since for "not later than", so that
    after a copy with an older date, or a clock that was set back, an OFF would hide behind "not modified".
    """
    etag = headers.get("etag", "")
    return {"If-None-Match": etag} if _ETAG.match(etag) else {}


def _other(status: int) -> Verdict:
    if status in (404, 410):
        return Verdict("missing", f"there is no flag (status {status})")
    if status in (429, 500, 502, 503, 504):
        return Verdict("busy", f"the server cannot answer (status {status})")
    return Verdict("refused", f"the server gives no flag (status {status})")


def issued(flag_time: int) -> str:
    """Return a time in seconds since 1970 as people write it."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(flag_time))
