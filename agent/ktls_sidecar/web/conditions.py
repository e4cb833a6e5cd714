# SPDX-License-Identifier: Apache-2.0
"""Conditional requests: RFC 9110 section 13, on a strong entity tag and a modification time in whole seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping

from .dates import parse_date


def evaluate(fields: Mapping[str, str], etag: str, modified: int | None) -> int | None:
    """Return 412, 304 or None (go on), in the order of section 13.2.2. ``fields`` has lower-case names.

    Conditions on a date are ignored where ``modified`` is None: there is none to compare to.
    """
    if_match = fields.get("if-match")
    if if_match is not None:
        if not matches(if_match, etag, weak=False):
            return 412
    elif modified is not None and "if-unmodified-since" in fields:
        since = parse_date(fields["if-unmodified-since"])
        if since is not None and modified > since:
            return 412
    if_none_match = fields.get("if-none-match")
    if if_none_match is not None:
        return 304 if matches(if_none_match, etag, weak=True) else None
    if modified is not None and "if-modified-since" in fields:
        since = parse_date(fields["if-modified-since"])
        if since is not None and modified <= since:
            return 304
    return None


def matches(field: str, etag: str, weak: bool) -> bool:
    """True when the list ``field`` is ``*`` or holds ``etag``; ``weak``: by the weak comparison."""
    if field.strip() == "*":
        return True
    for item in field.split(","):
        tag = item.strip()
        if tag == etag or (weak and tag == f"W/{etag}"):
            return True
    return False


def if_range(field: str, etag: str, modified: int | None, now: float | None = None) -> bool:
    """True when the client's part is of this very representation (section 13.1.5), so that a range may be sent.

    A date counts when it is exactly the Last-Modified and its second is over: within that second the file may be
    written once more and keep the date (section 8.8.2.2). A client that has the entity tag has to send that instead.
    """
    text = field.strip()
    if text[:1] == '"':
        return text == etag
    if text[:2] == "W/":
        return False
    if modified is None:
        return False
    return parse_date(text) == modified and (time.time() if now is None else now) >= modified + 1
