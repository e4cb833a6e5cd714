# SPDX-License-Identifier: Apache-2.0
"""What a host that cannot be asked will do by itself, from the journals of its fleet."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..rollout.state import HostState, RunState
from .model import Outlook
from .runs import Run

#: Runs that are looked through, newest first, for what a host was ordered.
_LOOK_BACK = 20
_UNKNOWN = "no journal here says what it was ordered: what was confirmed holds, anything else ends with its lease"


class History:
    """Name and state of the last runs, newest first. A journal is long: it is read when somebody gets to it, once."""

    def __init__(self, known: Sequence[Run]) -> None:
        self._rest = iter(known[:_LOOK_BACK])
        self._read: list[tuple[str, RunState]] = []

    def __iter__(self) -> Iterator[tuple[str, RunState]]:
        yield from self._read
        for run in self._rest:
            state = run.state()
            if state is not None:
                self._read.append((run.name, state))
                yield self._read[-1]


def outlook(host: str, known: Iterable[tuple[str, RunState]], now: float, *, flag: bool | None) -> Outlook:
    """What ``host`` will do. Pure.

    :param known: a :class:`History`.
    :param now: seconds since the epoch, as in the journals.
    :param flag: it pulls the signed flag, and that says off now; False: it pulls none; None: it pulls one, but none
        that says off was published.
    """
    kind, text, deadline, run = _by_journal(host, known, now)
    if flag:
        text += "; it pulls the flag, which says off: it obeys within seconds of reaching an endpoint"
    elif flag is None:
        text += "; it pulls a flag, but no off was published"
    elif kind in ("holds", "unknown"):
        text += "; it pulls no flag: repeat `ktls off` when it can be reached"
    return Outlook(kind, text, deadline, run, bool(flag))


_Found = tuple[str, str, float | None, str | None]


def _by_journal(host: str, known: Iterable[tuple[str, RunState]], now: float) -> _Found:
    for run, state in known:
        for wave in state.waves:
            there = wave.hosts.get(host)
            if there is None or there.state == "waiting":
                continue
            where = f"wave {wave.number} of run {run}"
            if there.state == "confirmed" or there.holds == "yes":
                if state.phase == "userspace":
                    return "userspace", f"was confirmed on userspace {clock(there.since)} ({where})", None, run
                when = "confirmed, then not reached" if there.holds else f"confirmed {clock(there.since)}"
                text = f"holds {state.shown_phase}, {when} ({where}): no lease ends it"
                return "holds", text, None, run
            if there.state == "reverted":
                return "userspace", f"went back to userspace {clock(there.since)} ({where})", None, run
            return _provisional(there, wave.state, wave.lease_s, state.shown_phase, now, where, run)
    return "unknown", _UNKNOWN, None, None


def _provisional(there: HostState, wave: str, lease_s: float, phase: str, now: float, where: str, run: str) -> _Found:
    """Ordered, or about to be, and not confirmed."""
    deadline = _deadline(there.state, there.since, there.seen, lease_s, now)
    if deadline <= now:
        text = f"its lease ended by {clock(deadline)}: back on userspace by itself ({where})"
    else:
        text = f"reverts by its lease by {clock(deadline)}, in {deadline - now:.0f} s ({where})"
    if there.holds or wave in ("confirming", "promoted"):
        return "unknown", f"{text}, unless its confirmation arrived: then it holds {phase}", deadline, run
    return "reverts", text, deadline, run


def _deadline(state: str, since: float, seen: Mapping[str, Any], lease_s: float, now: float) -> float:
    """On the late side: an order that is on its way counts from now, one that was answered from its answer."""
    if state == "ordering":
        return now + lease_s
    left, at = seen.get("lease_left_s"), seen.get("at")
    if left is not None and at is not None:
        return float(at) + float(left)
    return since + lease_s


def clock(at: float) -> str:
    """Local time, for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
