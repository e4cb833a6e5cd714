# SPDX-License-Identifier: Apache-2.0
"""One record of the audit trail, and how each holds the one before it. Pure.

A record is one line of JSON. ``sha256`` is the SHA-256 of the record without that key, in canonical form: keys sorted,
no spaces, ASCII only. ``prev`` is the ``sha256`` of the record before it, so no record can be changed, taken out, put
in or moved without changing every later one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

GENESIS = "0" * 64
"""``prev`` of the first record of all."""
PRUNE = "audit_prune"
"""The event that says which old files were removed: ``first_seq`` and ``prev`` of the first record that stays."""
_DETAIL_LIMIT = 16 * 1024
_KEYS = {"schema", "seq", "at", "boottime_s", "boot_id", "event", "detail", "prev", "sha256"}


class BadRecordError(ValueError):
    """A line that is no record, or not the one that was written."""


@dataclass(frozen=True)
class Head:
    """The last record: its number and its hash. ``seq`` 0 is the head of an empty trail."""

    seq: int = 0
    sha256: str = GENESIS


def canonical(body: dict[str, Any]) -> bytes:
    """Return the bytes that are hashed. Raises ValueError or TypeError for what JSON cannot carry."""
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return text.encode("ascii")


def seal(
    head: Head, event: str, detail: dict[str, Any], at: float, boottime_s: float, boot_id: str
) -> tuple[Head, bytes]:
    """Return the head after the next record, and its line. ``at``: Unix time, ``boottime_s``: CLOCK_BOOTTIME."""
    body = {
        "schema": 1,
        "seq": head.seq + 1,
        "at": round(at, 3),
        "boottime_s": round(boottime_s, 3),
        "boot_id": boot_id,
        "event": event,
        "detail": plain(detail),
        "prev": head.sha256,
    }
    digest = hashlib.sha256(canonical(body)).hexdigest()
    return Head(head.seq + 1, digest), canonical({**body, "sha256": digest}) + b"\n"


def plain(detail: dict[str, Any]) -> dict[str, Any]:
    """Return ``detail`` as JSON can carry it, and not too long; what cannot be carried is told, never refused."""
    try:
        size = len(canonical(detail))
        if size <= _DETAIL_LIMIT:
            return detail
        return {"cut": True, "bytes": size, "begins": canonical(detail)[:1000].decode("ascii")}
    except (ValueError, TypeError, RecursionError):
        return {"unreadable": True, "names": sorted(str(name)[:100] for name in detail)[:50]}


def check(line: bytes) -> dict[str, Any]:
    """Return the record in ``line`` (without its line feed). Raises :class:`BadRecordError`: not what was written."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRecordError("is no JSON") from error
    if not isinstance(record, dict) or set(record) != _KEYS:
        raise BadRecordError("is no record")
    try:
        body = canonical({key: value for key, value in record.items() if key != "sha256"})
        if canonical(record) != line:
            raise BadRecordError("is not in the form in which it was written")
    except (ValueError, TypeError, RecursionError) as error:
        if isinstance(error, BadRecordError):
            raise
        raise BadRecordError("holds what JSON does not carry") from error
    if isinstance(record["seq"], bool) or not isinstance(record["seq"], int):
        raise BadRecordError("has no number")
    if hashlib.sha256(body).hexdigest() != record["sha256"]:
        raise BadRecordError("was changed: its hash does not match")
    return record


def head_of(record: dict[str, Any]) -> Head:
    """Return the head that a checked record makes."""
    return Head(record["seq"], record["sha256"])
