# SPDX-License-Identifier: Apache-2.0
"""What the sentinel may claim: whether a download was really watched, and whether it is armed. Pure.

A download that ended well proves nothing if its packets were not seen: they may have gone over loopback, or another
interface. Only when all bytes of the connection were seen on the interface does it count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from .download import Download
from .watch import Seen


@dataclass(frozen=True)
class TargetState:
    """One target. ``probes``: downloads that were watched whole; ``last_ok_s``: CLOCK_BOOTTIME of the last one.

    ``error``: why the last download does not count. ``packets`` and ``payload_bytes``: seen of all of them.
    """

    probes: int = 0
    failures: int = 0
    last_ok_s: float | None = None
    error: str | None = None
    tls: str | None = None
    cipher: str | None = None
    packets: int = 0
    payload_bytes: int = 0

    def as_dict(self, now: float, now_s: float) -> dict[str, Any]:
        """Return plain JSON, with ``last_ok`` by the wall clock of now: when that is set, it moves, too.

        ``now``: wall clock; ``now_s``: CLOCK_BOOTTIME of the same moment.
        """
        shown = asdict(self)
        last_ok_s = shown.pop("last_ok_s")
        return {**shown, "last_ok": None if last_ok_s is None else round(now - (now_s - last_ok_s), 3)}


def unwatched(interface: str, stream_bytes: int, seen: Seen) -> str | None:
    """Return why a download of ``stream_bytes`` was not watched, None if it was."""
    if seen.covered >= stream_bytes:
        return None
    if seen.packets == 0:
        return f"downloaded, but none of its packets came in on {interface}: is this the interface of the route there?"
    return f"downloaded, but only {seen.covered} of {stream_bytes} bytes were seen on {interface}: frames were lost"


def took(before: TargetState, now_s: float, found: Download | str, seen: Seen, interface: str) -> TargetState:
    """Return the state after a download that ended at CLOCK_BOOTTIME ``now_s``. ``found``: or why it failed."""
    state = replace(
        before, packets=before.packets + seen.packets, payload_bytes=before.payload_bytes + seen.payload_bytes
    )
    if isinstance(found, str):
        return replace(state, failures=state.failures + 1, error=found)
    state = replace(state, tls=found.tls, cipher=found.cipher)
    problem = unwatched(interface, found.stream_bytes, seen)
    if problem is not None:
        return replace(state, failures=state.failures + 1, error=problem)
    return replace(state, probes=state.probes + 1, last_ok_s=now_s, error=None)


def window_s(interval_s: float, timeout_s: float) -> float:
    """Return how old the last watched download may be: three rounds, a minute at least."""
    return max(3.0 * interval_s, 60.0) + timeout_s


def why_not_armed(
    problems: list[str | None], targets: Mapping[str, TargetState], now_s: float, window: float
) -> str | None:
    """Return why the sentinel cannot tell anything now, None if it can.

    ``problems``: of capture and latch, None where there is none. One target that is watched is enough: of the others
    each has its own ``last_ok``. ``now_s``: CLOCK_BOOTTIME.
    """
    for problem in problems:
        if problem is not None:
            return problem
    ok = [state.last_ok_s for state in targets.values() if state.last_ok_s is not None]
    if ok and now_s - max(ok) <= window:
        return None
    errors = [f"{name}: {state.error}" for name, state in targets.items() if state.error]
    if errors:
        return f"no target is watched: {errors[0]}" + (f" (and {len(errors) - 1} more)" if len(errors) > 1 else "")
    return "no target has been downloaded from yet" if not ok else "the last download that was watched is too old"
