# SPDX-License-Identifier: Apache-2.0
"""The machines that watch the wire during phase ``hw``, as a rollout needs them: clean, leak or blind, and why.

What they say is judged by :mod:`ktls_control.sentinel`; here is who is asked when, and what an answer means to a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .. import sentinel
from ..errors import ControlError
from ..inventory import Host, host_from_vars, load
from ..plan import cards

#: clean: probes of every host were seen and no plaintext. leak: plaintext was. blind: nobody can say.
Sight = Literal["clean", "leak", "blind", "none"]
Statuses = Mapping[str, Mapping[str, Any]]
#: What a run without a sentinel says of itself.
WITHOUT = "nobody watches the wire: the plan says --without-sentinel"
#: Seconds between two questions, at least, and how long a sentinel that is not ready is waited for before a wave.
ASK_S, READY_S = 2.0, 60.0


@dataclass(frozen=True)
class Sighting:
    """What the sentinels said. :param at: seconds since the epoch, control node."""

    sight: Sight
    why: str
    at: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """As the journal has it."""
        return {"sight": self.sight, "why": self.why}


class Sentinels:
    """:param hosts: their connection variables, by name; none: nobody watches.

    Tests put a fake in its place.
    """

    def __init__(self, hosts: Mapping[str, Mapping[str, Any]]) -> None:
        self._hosts = [host_from_vars(name, variables) for name, variables in hosts.items()]

    def look(self, names: Sequence[str], since: float, now: float) -> Sighting:
        """What they saw of ``names`` since ``since`` (both in seconds since the epoch, control node)."""
        return self._asked(lambda statuses: Sighting(*sentinel.judge(statuses, names, since, now), now), now)

    def standing(self, names: Sequence[str], now: float = 0.0) -> Sighting:
        """Whether they could watch ``names`` if these were ordered now; what was there to see is not asked."""
        sentinels = [host.name for host in self._hosts]
        return self._asked(lambda statuses: ready(statuses, sentinels, names, now), now)

    def _asked(self, judge: Callable[[Statuses], Sighting], now: float) -> Sighting:
        if not self._hosts:
            return Sighting("none", WITHOUT, now)
        try:
            return judge(sentinel.ask(self._hosts))
        except ControlError as error:
            return Sighting("blind", error.message, now)


def members(phase: str, inventory: str, without_sentinel: bool) -> list[Host]:
    """The machines of an inventory that watch the wire, for ``phase``; none where it needs none.

    :raises ControlError: ``no_sentinel`` when there are none, and nobody said that there need be none.
    """
    if phase != "hw" or without_sentinel:
        return []
    try:
        found = load(inventory, cards.SENTINELS)
    except ControlError as error:
        if error.code not in ("no_group", "no_hosts"):
            raise
        found = []
    cards.hardware(phase, [host.name for host in found], without_sentinel)
    return found


def ready(statuses: Statuses, sentinels: Sequence[str], names: Sequence[str], now: float) -> Sighting:
    """Clean when all sentinels answer, between them are armed for every host, and no leak is latched. Pure."""
    leaks = [f"{name} has seen plaintext" for name, status in statuses.items() if status.get("leaks")]
    if leaks:
        cure = "`ktls off` if hosts are in hw, find out why, then clear it there (ktls-sentinel clear)"
        why = f"{'; '.join(leaks)}: {cure}"
        return Sighting("leak", why, now)
    silent = [name for name in sentinels if (statuses.get(name) or {}).get("ok") is not True]
    if silent:
        # It may hold a leak that nobody has read.
        return Sighting("blind", "; ".join(f"{name}: {_why(statuses.get(name))}" for name in silent), now)
    armed = [name for name in sentinels if _armed(statuses.get(name))]
    if not armed:
        said = [f"{name}: {_why(statuses.get(name))}" for name in sentinels]
        return Sighting("blind", f"no sentinel is armed: {'; '.join(said)}", now)
    watched = {host for name in armed for host in (statuses[name].get("targets") or {})}
    missing = [name for name in names if name not in watched]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        return Sighting("blind", f"no armed sentinel watches {', '.join(missing[:5])}{more}", now)
    return Sighting("clean", f"armed: {', '.join(armed)}", now)


def _armed(status: Mapping[str, Any] | None) -> bool:
    return (status or {}).get("armed") is True


def _why(status: Mapping[str, Any] | None) -> str:
    if not status:
        return "no answer"
    error = status.get("error")
    said = error.get("message") if isinstance(error, Mapping) else error
    return " ".join(str(status.get("why") or said or "not armed").split())
