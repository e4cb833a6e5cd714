# SPDX-License-Identifier: Apache-2.0
"""What an operator wants to know about a run right now, worked out of its state. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..plan.model import Plan
from ..plan.model import Wave as PlannedWave
from ..rollout.state import HostState, RunState, WaveState
from . import words

#: A run whose controller is gone for this long will not go on by itself. Seconds.
GONE_S = 15.0
#: No event for this long is worth saying although the controller is there. Seconds.
QUIET_S = 120.0

#: Exit codes of ``ktls status --watch`` and ``--run``.
COMPLETED, FAILED, RUNNING, WAITING, GONE = 0, 1, 3, 4, 5

_UNWELL = ("failed", "unreachable")


@dataclass(frozen=True)
class Alive:
    """Whether anybody drives the run: ``gone`` and ``quiet`` are sentences, None when all is well."""

    gone: str | None = None
    quiet: str | None = None


def alive(state: RunState, now: float, lock_held: bool | None, holder: str = "unknown") -> Alive:
    """:param lock_held: somebody holds the fleet's lock; None: not known."""
    if state.ended is not None:
        return Alive()
    silent = now - state.last
    ago = words.duration(silent)
    if lock_held is False and silent >= GONE_S:
        return Alive(gone=f"controller not running, last event {ago} ago: ktls resume")
    if silent >= QUIET_S:
        if lock_held is None:
            return Alive(quiet=f"no event for {ago}; if the controller is not running: ktls resume")
        return Alive(quiet=f"no event for {ago}; the lock is held by {holder}")
    return Alive()


def exit_code(state: RunState, gone: bool) -> int:
    """What a script is told when it stops watching now."""
    if state.ended is not None:
        return COMPLETED if state.outcome == "completed" else FAILED
    if gone:
        return GONE
    wave = current(state)
    by_person = wave is not None and wave.waiting is not None and words.WAITS.get(wave.waiting, ("", True))[1]
    return WAITING if by_person or state.paused else RUNNING


def current(state: RunState) -> WaveState | None:
    """The wave that something happens to, or happened to last; None before the first."""
    busy = [wave for wave in state.waves if wave.state not in ("waiting", "promoted")]
    if busy:
        return busy[-1]
    done = [wave for wave in state.waves if wave.state != "waiting"]
    return done[-1] if done else None


def unwell(host: HostState) -> bool:
    """It needs an operator's eye. What a host complained of before it was confirmed or went back is over."""
    if host.state in _UNWELL or host.lost is not None:
        return True
    return bool(host.seen.get("error")) and host.state not in ("confirmed", "reverted")


def lease_left(host: HostState, now: float) -> float | None:
    """Seconds until the host reverts by itself unless it hears from us; None: no lease runs, or unknown."""
    if host.lease_until is None or host.state not in ("ordering", "soaking", "judged", "failed", "unreachable"):
        return None
    return max(0.0, host.lease_until - now)


def shortest_lease(wave: WaveState, now: float) -> float | None:
    """The least of the leases of hosts that answer, else of all; before any is known, the lease as it was given."""
    if wave.state not in ("ordering", "soaking", "judged", "held", "confirming"):
        return None
    lefts = [
        (host.lost is not None, left) for host in wave.hosts.values() if (left := lease_left(host, now)) is not None
    ]
    if lefts:
        return min(lefts)[1]
    return max(0.0, wave.lease_s - (now - wave.since)) if wave.lease_s else None


def planned(plan: Plan | None, number: int) -> PlannedWave | None:
    """The plan's idea of a wave."""
    return next((wave for wave in plan.waves if wave.number == number), None) if plan else None


def needs(wave: WaveState, plan: PlannedWave | None, now: float) -> list[str]:
    """What a soak still needs before its gate may pass: time, connections, bytes."""
    if wave.state != "soaking" or wave.soak_started is None:
        return []
    wanted = []
    left = wave.soak[0] - (now - wave.soak_started)
    if left > 0:
        wanted.append(words.duration(left))
    if plan is None:
        return wanted
    seen = [host.seen for host in wave.hosts.values() if host.state == "soaking"]
    missing = plan.soak.min_connections - sum(_number(one, "connections") for one in seen)
    if missing > 0:
        wanted.append(f"{words.count(missing)} connections")
    short = [gap for one in seen if (gap := plan.soak.min_bytes - _number(one, "sent")) > 0]
    if short:
        where = "1 host" if len(short) == 1 else f"{len(short)} hosts"
        wanted.append(f"{words.size(max(short))} on {where}")
    return wanted


def _number(seen: Mapping[str, Any], key: str) -> float:
    value = seen.get(key)
    return float(value) if isinstance(value, (int, float)) else 0.0


def counted(state: RunState) -> dict[str, int]:
    """Hosts of the whole run by state."""
    found: dict[str, int] = {}
    for wave in state.waves:
        for host in wave.hosts.values():
            found[host.state] = found.get(host.state, 0) + 1
    return found
