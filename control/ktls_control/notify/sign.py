# SPDX-License-Identifier: Apache-2.0
"""Signatures of webhooks as the Standard Webhooks specification has them, so that receivers need no code of ours.

The key signs ``ID.TIMESTAMP.BODY``. A receiver compares the signature, refuses a timestamp more than five minutes away
from its clock, and remembers the ids of those five minutes: nothing can be replayed then.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping

#: Away from the receiver's clock, seconds.
TOLERANCE_S = 300


def signature(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Value of ``webhook-signature``: ``v1,`` and the HMAC-SHA256 in base64."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


def headers(secret: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers of one attempt."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, message_id, timestamp, body),
    }


def verify(secret: bytes, given: Mapping[str, str], body: bytes, now: float) -> bool:
    """What a receiver does, but for remembering ids. ``given``: headers, names in lower case."""
    try:
        timestamp = int(given["webhook-timestamp"])
        wanted = signature(secret, given["webhook-id"], timestamp, body)
        offered = given["webhook-signature"].split()
    except (KeyError, ValueError):
        return False
    # While keys are changed there are several.
    good = any(hmac.compare_digest(wanted.encode(), one.encode()) for one in offered)
    return good and abs(now - timestamp) <= TOLERANCE_S
