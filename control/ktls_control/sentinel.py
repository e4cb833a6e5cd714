# SPDX-License-Identifier: Apache-2.0
"""The machines that watch the wire for plaintext: ask them, and judge what they say.

Clocks of different machines are not compared: what a sentinel says of times is taken as ages by its own clock, and set
off against the moment at which it was asked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from .inventory import Host
from .reach import Reach

GROUP = "ktls_sentinels"
SENTINEL = "/usr/local/bin/ktls-sentinel"
SOCKET = ("ktls_sentinel_socket", "/run/ktls-sentinel/sentinel.sock")
#: An answer that is older says nothing of now (seconds).
STALE_S = 60.0
#: The last download of a host may be this old: so many rounds of the sentinel, and this many seconds at least.
ROUNDS, LEAST_S = 4.0, 60.0
#: What mainline Linux hands to a card; a download with anything else shows nothing of it.
TLS = "TLSv1.2"

_NAMED = 5
_FUTURE_S = 5.0

Sight = Literal["clean", "leak", "blind"]


def ask(hosts: Sequence[Host], timeout_s: float = 20.0) -> dict[str, dict[str, Any]]:
    """The status of each sentinel, by name, or ``{"ok": false, "error": {"code", "message"}}``.

    ``asked_at`` is added: the control node's ``time.time()`` when the answer was complete.
    """
    statuses: dict[str, dict[str, Any]] = {}
    with Reach(hosts, timeout_s=timeout_s, keep=0, program=SENTINEL, socket=SOCKET) as reach:
        for reply in reach.ask([host.name for host in hosts], "status"):
            if reply.data is None:
                error = {"code": reply.code or "no_answer", "message": reply.error or f"{reply.host}: no answer"}
                statuses[reply.host] = {"ok": False, "error": error, "asked_at": reply.at}
            else:
                statuses[reply.host] = {**reply.data, "asked_at": reply.at}
    return {host.name: statuses[host.name] for host in hosts}


def judge(
    statuses: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], since: float, now: float
) -> tuple[Sight, str]:
    """Whether the wire of ``hosts`` was clean since their order. Pure.

    :param statuses: what :func:`ask` returned.
    :param since: when the hosts had their order; ``now``: the present; both in seconds since the epoch, control node.
    :returns: ``leak`` when any sentinel holds one, of whatever host and age, for it is latched until an operator
        clears it. ``blind`` when a sentinel has no answer, or a host has no sentinel that is armed and that downloaded
        from it since ``since`` and lately, over the TLS that a card takes. Else ``clean``. And why, in one line.
    """
    leaks = [_leak(name, status) for name, status in sorted(statuses.items()) if _leaks(status)]
    if leaks:
        return "leak", "; ".join(leaks)
    if not statuses:
        return "blind", f"no machine watches the wire: none is in group {GROUP}"
    silent = [_silent(name, status, now) for name, status in sorted(statuses.items())]
    lost = [why for why in silent if why is not None]
    if lost:
        return "blind", _some(lost)
    unseen = [why for why in (_unseen(statuses, host, since, now) for host in hosts) if why is not None]
    if unseen:
        return "blind", _some(unseen)
    return "clean", f"watched by {', '.join(sorted(statuses))}"


def _leaks(status: Mapping[str, Any]) -> Sequence[Any]:
    found = status.get("leaks")
    return found if isinstance(found, Sequence) and not isinstance(found, str) else ()


def _leak(name: str, status: Mapping[str, Any]) -> str:
    first = _leaks(status)[0]
    first = first if isinstance(first, Mapping) else {}
    more = len(_leaks(status)) - 1
    return (
        f"{name} saw plaintext of {first.get('src')} on the wire (block {first.get('block')} of the probe file)"
        + (f", and of {more} more" if more else "")
        + "; look into it before `ktls-sentinel clear`"
    )


def _silent(name: str, status: Mapping[str, Any], now: float) -> str | None:
    """Why a sentinel's answer cannot be used: it may hold a leak that nobody has read."""
    if status.get("ok") is not True:
        error = status.get("error")
        message = error.get("message") if isinstance(error, Mapping) else None
        return str(message or f"{name}: no answer")
    age = now - _number(status.get("asked_at"), now)
    if age > STALE_S:
        return f"{name}: its answer is {age:.0f} s old"
    if not isinstance(status.get("targets"), Mapping) or _number(status.get("now"), None) is None:
        return f"{name}: its answer is not that of a sentinel"
    return None


def _unseen(statuses: Mapping[str, Mapping[str, Any]], host: str, since: float, now: float) -> str | None:
    """Why nobody can vouch for ``host``; None if one sentinel can."""
    reasons = []
    for name, status in sorted(statuses.items()):
        target = status["targets"].get(host)
        if isinstance(target, Mapping):
            why = _unproven(name, status, host, target, since, now)
            if why is None:
                return None
            reasons.append(why)
    return reasons[0] if reasons else f"{host}: no sentinel watches it; run playbook sentinel.yml"


def _unproven(
    name: str, status: Mapping[str, Any], host: str, target: Mapping[str, Any], since: float, now: float
) -> str | None:
    if status.get("armed") is not True:
        return f"{name} is not armed: {status.get('why') or 'it does not say why'}"
    last = _number(target.get("last_ok"), None)
    error = target.get("error")
    because = f": {error}" if error else ""
    if last is None:
        return f"{host}: {name} has not seen a download of it yet{because}"
    age = _number(status.get("now"), math.inf) - last
    if age < -_FUTURE_S:
        return f"{host}: {name} says that its last download is yet to come"
    if _number(status.get("asked_at"), now) - age < since:
        return f"{host}: {name} has not seen a download of it since its order{because}"
    limit = max(LEAST_S, ROUNDS * _number(status.get("interval_s"), 0.0))
    if age > limit:
        return f"{host}: the last download that {name} saw is {age:.0f} s old{because}"
    if target.get("tls") != TLS:
        return f"{host}: {name} downloads over {target.get('tls')}, which no card takes; set ktls_sentinel_tls to 1.2"
    return None


def _number(value: object, otherwise: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if number else otherwise  # type: ignore[arg-type]


def _some(reasons: Sequence[str]) -> str:
    named = list(dict.fromkeys(reasons))
    more = f" (and {len(named) - _NAMED} more)" if len(named) > _NAMED else ""
    return "; ".join(named[:_NAMED]) + more
