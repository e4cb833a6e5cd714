# SPDX-License-Identifier: Apache-2.0
"""Bytes of a datapath that does not tell its connections apart, as the kernel saw them. Pure.

The agent's evidence (docs/evidence.md) attributes bytes to connections by socket, whatever program serves. Old agents
tell of the whole host only: then that is what is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ktls_host import datapath_status

#: Bytes of connections that came and went unseen, of the whole host.
LOST = "unattributed"
_SENT, _RECEIVED = ("ktls_sent", "sent"), ("ktls_received", "received")


def by_kernel(path: str, first: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, int]:
    """Bytes on ``path`` and others, between two statuses; empty when nobody knows.

    :param path: a key of the result, as in :data:`.gate.PATH_OF_PHASE`; :data:`LOST`: may have gone by either.
    """
    earlier, later = evidence(first), evidence(last)
    if earlier is None or later is None or earlier.get("since_s") != later.get("since_s"):
        # Without the kernel's word, the datapath's own, if it has one.
        return _own(first, last)
    name = datapath_status.of(last).unit.removesuffix(".service")
    grown = _of_process(name, earlier, later) or _of_host(earlier, later)
    if grown is None:
        return {}
    ktls_sent, sent, ktls_received, received, lost_sent, lost_received = grown
    if path == "ktls_tx_rx":
        kernel, whole, lost = ktls_sent + ktls_received, sent + received, lost_sent + lost_received
    else:
        kernel, whole, lost = ktls_sent, sent, lost_sent
    if path == "userspace":
        return {path: whole - kernel, "ktls": kernel, LOST: lost}
    return {path: kernel, "userspace": whole - kernel, LOST: lost}


def presumed(path: str, first: Mapping[str, Any], last: Mapping[str, Any]) -> int:
    """Bytes of the host that count as kernel TLS only if clients on it have none; 0 when nobody knows of any."""
    earlier, later = evidence(first), evidence(last)
    if earlier is None or later is None or earlier.get("since_s") != later.get("since_s"):
        return 0
    before, after = (_mapping(_mapping(one.get("total")).get("presumed")) for one in (earlier, later))
    keys = ("sent", "received") if path == "ktls_tx_rx" else ("sent",)
    return sum(_grown(before.get(key, 0), after.get(key)) or 0 for key in keys)


def evidence(status: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What the kernel told the agent; None where it told nothing."""
    found = status.get("evidence")
    return found if isinstance(found, Mapping) and found.get("known") is True else None


def _of_process(name: str, first: Mapping[str, Any], last: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Of one unit; what nobody could attribute may all be its own."""
    earlier, later = (_mapping(_mapping(one.get("total")).get("by_process")) for one in (first, last))
    if name not in later:
        return None
    before, after = _mapping(earlier.get(name)), _mapping(later[name])
    lost = [_mapping(_mapping(one.get("total")).get("unattributed")) for one in (first, last)]
    counts = [_grown(before.get(key, 0), after.get(key)) for key in (*_SENT, *_RECEIVED)]
    counts += [_grown(lost[0].get(key, 0), lost[1].get(key)) for key in ("sent", "received")]
    known = [count for count in counts if count is not None]
    return tuple(known) if len(known) == len(counts) else None


def _of_host(first: Mapping[str, Any], last: Mapping[str, Any]) -> tuple[int, ...] | None:
    """Of all that serves on the host; shares are rounded to a millionth, which is of no account in a long soak."""
    counts: list[int] = []
    for share, key in (("ktls_sent_share", "sent"), ("ktls_received_share", "received")):
        kernel = []
        for one in (first, last):
            total = _mapping(one.get("total"))
            amount, part = total.get(key), total.get(share)
            if not isinstance(amount, int):
                return None
            kernel.append((round((part or 0.0) * amount), amount))
        grown = [later - earlier for earlier, later in zip(*kernel, strict=True)]
        if grown[1] < 0:
            return None
        counts += [max(0, min(grown)), grown[1]]
    return (*counts, 0, 0)


def _own(first: Mapping[str, Any], last: Mapping[str, Any]) -> dict[str, int]:
    before, after = (_mapping(one.get("sidecar")) for one in (first, last))
    earlier, later = before.get("bytes"), after.get("bytes")
    if not isinstance(earlier, Mapping) or not isinstance(later, Mapping) or before.get("pid") != after.get("pid"):
        return {}
    grown = {key: _grown(earlier.get(key, 0), count) for key, count in later.items()}
    known = {key: count for key, count in grown.items() if count is not None}
    return known if len(known) == len(grown) else {}


def _grown(before: object, after: object) -> int | None:
    if not isinstance(before, int) or not isinstance(after, int) or after < before:
        return None
    return after - before


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
