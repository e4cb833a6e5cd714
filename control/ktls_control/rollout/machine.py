# SPDX-License-Identifier: Apache-2.0
"""What the engine does next. Pure: decided from the plan, the state folded from the journal, and what was seen now."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Literal

from ktls_host import datapath_status

from ..errors import ControlError
from ..judge import hardware, moved
from ..judge.gate import PATH_OF_PHASE, GatePolicy, judge_host, moved_bytes
from ..judge.model import WaveVerdict
from ..plan.model import Plan, Wave
from .control import Controls
from .sentinels import Sighting
from .state import RunState, WaveState

#: A host that does not answer for this long has failed (seconds).
UNREACHABLE_S = 20.0
#: Waves in these states may have changed hosts, and are neither kept nor back.
UNFINISHED = ("ordering", "soaking", "judged", "held", "confirming")
#: Checks of a host that are wrong at once, whatever traffic there was.
_INSTANT = ("order", "phase", "probe", "errors", "receive", "features", "decrypt")
#: Refusals before which the host changed nothing: it is left as it is.
UNTOUCHED = ("facts_drifted", "stale_epoch", "agent_missing", "agent_too_old", "bad_task")

Outcome = Literal["completed", "failed", "aborted", "off"]

#: Whether a host that cannot be reached keeps what it was ordered: its confirmation arrived, or may have; ``stays``:
#: it was reached, and what serves there keeps it.
Holds = Literal["yes", "unknown", "stays"]

#: What a host that is not back will do by itself: there is a lease only until it confirms.
UNREACHED: dict[Holds | None, str] = {
    None: "not reached, their lease takes them back",
    "unknown": (
        "not reached, confirmed or not, which nobody heard: their lease takes them back, or they hold until `ktls off`"
    ),
    "yes": "not reached, confirmed before, so they hold until `ktls off` reaches them",
    "stays": "NOT back, what serves there keeps it",
}


class StopError(Exception):
    """The wave does not go on: it goes back as one, and the run ends.

    :param outcome: of the run.
    :param touched: hosts of the wave may have been changed.
    """

    def __init__(self, why: str, outcome: Outcome = "failed", *, touched: bool = True) -> None:
        super().__init__(why)
        self.why = why
        self.outcome = outcome
        self.touched = touched


@dataclass(frozen=True)
class Seen:
    """One host, as it answered while its wave soaks; counts since its order.

    :param presumed: bytes of the host that are kTLS only if clients on it have none; see ``judge.moved``.
    :param unattributed: bytes of ``sent`` that nobody could attribute to either path.
    :param hw: what its card did, in phase ``hw``: a :class:`ktls_control.judge.hardware.Moved` as a dict.
    :param wrong: why it has failed; None while nothing says so.
    """

    reachable: bool
    phase: str | None = None
    order: str | None = None
    lease_left_s: float | None = None
    connections: int | None = None
    sent: int | None = None
    ktls: int | None = None
    share: float | None = None
    hw: Mapping[str, Any] | None = None
    presumed: int | None = None
    unattributed: int | None = None
    off: bool = False
    wrong: str | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """As the journal has it."""
        found = {
            "reachable": self.reachable,
            "phase": self.phase,
            "lease_left_s": self.lease_left_s,
            "connections": self.connections,
            "sent": self.sent,
            "ktls": self.ktls,
            "share": self.share,
            "presumed": self.presumed,
            "unattributed": self.unattributed,
            "hw": None if self.hw is None else dict(self.hw),
        }
        said = self.wrong or self.error
        return {**{k: v for k, v in found.items() if v is not None}, **({"error": said} if said else {})}


# Where a run stands


def unfinished(state: RunState) -> WaveState | None:
    """The wave that was under way when the state was written: its hosts may be changed."""
    return next((wave for wave in state.waves if wave.state in (*UNFINISHED, "reverting")), None)


def left(state: RunState) -> list[WaveState]:
    """Waves that are still to be done, the unfinished one first."""
    return [wave for wave in state.waves if wave.state != "promoted"]


def taking_part(wave: WaveState) -> list[str]:
    """Hosts of a wave that have not failed, and are not back."""
    return [name for name, host in wave.hosts.items() if host.state not in ("failed", "unreachable", "reverted")]


def over_budget(plan: Plan, failed: Mapping[str, str]) -> str | None:
    """Why the run cannot go on with these failures; None while the plan allows them."""
    if len(failed) <= plan.failure_budget:
        return None
    budget = f" (failure budget {plan.failure_budget})" if plan.failure_budget else ""
    return "; ".join(_named(name, why) for name, why in failed.items()) + budget


def _named(name: str, why: str) -> str:
    return why if why.startswith(name) else f"{name}: {why}"


# Opening


def refuse(plan: Plan) -> None:
    """:raises ControlError: ``no_headroom``, ``empty_plan`` or ``no_sentinel``: no host may be touched."""
    if plan.phase == "hw" and (
        plan.hardware is None or bool(plan.hardware.sentinels) == plan.hardware.without_sentinel
    ):
        raise ControlError("no_sentinel", f"plan {plan.id} of phase hw does not say who watches the wire: plan again")
    if not plan.waves or not any(wave.hosts for wave in plan.waves):
        raise ControlError("empty_plan", f"plan {plan.id} has no eligible host: see its refusals with `ktls plan`")
    why = no_headroom(plan)
    if why:
        raise ControlError("no_headroom", why)


def earlier_owed(plan: Plan, state: RunState, number: int) -> list[tuple[WaveState, str]]:
    """Earlier waves that have to go back with wave ``number``, with why: the last gate found hosts of them not well.

    Those that went back alone, within the failure budget, are not confirmed any more and take nobody along.
    """
    owed = [(wave, "its way back was cut short") for wave in state.waves if _cut_short(wave, number)]
    verdicts = state.wave(number).verdicts
    known = bool(verdicts) and plan.earlier == "revert" and plan.phase != "userspace"
    recheck: Mapping[str, str] = (verdicts[-1].get("recheck") or {}) if known else {}
    for wave in state.waves if recheck else ():
        bad = [recheck[name] for name, host in wave.hosts.items() if name in recheck and host.state == "confirmed"]
        if wave.state == "promoted" and wave.number != number and bad:
            owed.append((wave, "; ".join(bad)))
    return owed


def _cut_short(wave: WaveState, number: int) -> bool:
    return wave.number != number and wave.state == "reverting"


def no_headroom(plan: Plan) -> str | None:
    """Why no wave may be promoted: a fleet that cannot afford userspace has no way back."""
    room = plan.headroom
    if plan.phase == "userspace" or room.worst is None or room.worst <= room.limit:
        return None
    return (
        f"if everything went back to userspace TLS, {room.worst_host or 'a host'} would need {room.worst:.0%} of its "
        f"CPUs (limit {room.limit:.0%}): take load off it or give it more, and plan again"
    )


def frozen(plan: Plan, now: float) -> tuple[float, str] | None:
    """Until when no wave is started, and why; None: now is no freeze."""
    ends = [
        (_time(freeze.end), freeze.reason or "freeze")
        for freeze in plan.freezes
        if _time(freeze.start) <= now < _time(freeze.end)
    ]
    return max(ends) if ends else None


def _time(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def check_freezes(plan: Plan) -> None:
    """:raises ControlError: ``bad_freeze``: before the run starts, not in the middle of it."""
    try:
        for freeze in plan.freezes:
            _time(freeze.start), _time(freeze.end)
    except ValueError as error:
        raise ControlError("bad_freeze", f"plan {plan.id}: a freeze cannot be read: {error}") from error


def experiment(plan: Plan, order_id: str) -> dict[str, Any] | None:
    """What an order carries so that the host compares kTLS with userspace; None: nothing."""
    if plan.phase == "userspace" or plan.gates.method not in ("switchback", "connections"):
        return None
    seed = int.from_bytes(hashlib.sha256(order_id.encode()).digest()[:4], "big") >> 1
    gates = plan.gates
    return {"method": gates.method, "block_s": gates.block_s, "washout_s": gates.washout_s, "seed": seed}


def stopped(controls: Controls, *, touched: bool) -> StopError | None:
    """What an operator has asked for, if it ends the run. Whatever waits asks this first, and last."""
    asked = controls.stop
    if asked is None:
        return None
    verb: Outcome = "off" if controls.off else "aborted"
    return StopError(f"{verb} by {asked.by}" + (f": {asked.why}" if asked.why else ""), verb, touched=touched)


# Soaking


def see(
    phase: str,
    before: Mapping[str, Any] | None,
    now: Mapping[str, Any] | None,
    error: str | None,
    settled: Mapping[str, Any] | None = None,
    *,
    soaking: bool = True,
) -> Seen:
    """What one answer says of a host.

    :param before: its status right after the order.
    :param now: its status now; None when it did not answer, and ``error`` says why.
    :param settled: see :func:`ktls_control.judge.gate.judge_host`.
    :param soaking: False: its wave was promoted before. That somebody restarts his own server then is no failure.
    """
    if now is None:
        return Seen(False, error=error)
    verdict = judge_host(phase, before, now, GatePolicy(min_share=0.0, min_bytes=1))
    datapath = datapath_status.of(now)
    wrong = [
        f"{check.name}: {check.detail}"
        for check in verdict.checks
        if check.outcome == "fail"
        # Only what was on is off now: right after an order it may not be known to be on yet.
        and (check.name != "features" or hardware.features_on(before))
        # What clients see of another server may be usual there: how many are too many, the judge says.
        and (check.name != "errors" or datapath.is_sidecar or (soaking and not check.detail.startswith("new ")))
        and (check.name in _INSTANT or (check.name == "kernel" and check.detail.startswith("TlsDecryptError")))
    ]
    card = hardware.moved(before, now) if phase == "hw" else None
    if card is not None and hardware.standing_still(card):
        wrong.append(f"card: stale: it encrypted nothing, and connections called hw sent {card.hw} bytes")
    presumed = lost = None
    sent, ktls = _moved(before, now, "bytes")
    accepted, _by_ktls = _moved(before, now, "connections_total")
    if not datapath.is_sidecar:
        grown = moved_bytes(phase, before or {}, now, settled)
        sent, ktls = (sum(grown.values()), grown.get(PATH_OF_PHASE[phase], 0)) if grown else (None, None)
        presumed = moved.presumed(PATH_OF_PHASE[phase], settled or before or {}, now) or None
        lost = grown.get(moved.LOST) or None
    return Seen(
        True,
        phase=now.get("phase"),
        order=now.get("order"),
        lease_left_s=now.get("lease_left_s"),
        connections=accepted,
        sent=sent,
        ktls=ktls,
        share=None if not sent or ktls is None else round(ktls / sent, 5),
        presumed=presumed,
        unattributed=lost,
        hw=card.as_dict() if card is not None else None,
        off=bool((now.get("off") or {}).get("flag")),
        wrong="; ".join(wrong) or None,
    )


def _moved(before: Mapping[str, Any] | None, now: Mapping[str, Any], key: str) -> tuple[int | None, int | None]:
    """How much a pair of counters of the sidecar has grown: all of it, and the part of kTLS."""
    first, last = ((status or {}).get("sidecar") or {} for status in (before, now))
    if first.get("pid") != last.get("pid") or not isinstance(first.get(key), Mapping) or key not in last:
        return None, None
    if not isinstance(last[key], Mapping):
        return None, None
    moved = {path: count - first[key].get(path, 0) for path, count in last[key].items()}
    return (None, None) if min(moved.values(), default=-1) < 0 else (sum(moved.values()), moved.get("ktls_tx", 0))


def enough(wave: Wave, seen: Mapping[str, Seen], hosts: Sequence[str]) -> bool:
    """The soak has had the traffic that the plan asks for."""
    accepted = sum(one.connections or 0 for one in seen.values())
    quiet = [name for name in hosts if name not in seen or (seen[name].sent or 0) < wave.soak.min_bytes]
    return accepted >= wave.soak.min_connections and not (wave.soak.min_bytes and quiet)


def doubtful(seen: Mapping[str, Seen], min_share: float) -> bool:
    """Whether, on any host, it hangs on bytes that nobody could attribute if its share is large enough.

    Which connections those are is chance, and one of them may be a large part of a short soak: more traffic tells.
    """
    return any(
        one.sent and one.ktls is not None and one.ktls < min_share * one.sent <= one.ktls + (one.unattributed or 0)
        for one in seen.values()
    )


def needs_traffic(wave: Wave) -> bool:
    """The plan asks for traffic at all."""
    return bool(wave.soak.min_bytes or wave.soak.min_connections)


def to_extend(seen: Mapping[str, Seen], lease_s: float, gap_s: float) -> list[str]:
    """Hosts whose lease is extended now: less than half of it is left, or less than three more looks.

    :param gap_s: seconds until the next look.
    """
    least = max(lease_s / 2, 3 * gap_s)
    return [
        name
        for name, one in seen.items()
        if one.reachable and one.order == "pending" and one.lease_left_s is not None and one.lease_left_s < least
    ]


def gap(wave: Wave, hosts: int, spent_s: float) -> float:
    """Seconds between two looks: often in a short soak, and never so often that looking is most of the work.

    :param spent_s: how long the last look took.
    """
    return min(max(wave.soak.min_s / 10, 0.5, 4 * spent_s, hosts * 0.02), 15.0 + 4 * spent_s)


# Promoting


def judged(verdict: WaveVerdict, recheck: Mapping[str, str], plan: Plan, failed: Mapping[str, str]) -> str | None:
    """Why the wave cannot be promoted whatever an operator says; None: it can, perhaps after somebody has decided.

    :param failed: hosts that have failed in the whole run, by name with why.
    """
    if verdict.outcome == "fail":
        return "; ".join(verdict.reasons) or "its gate failed"
    over = over_budget(plan, {**failed, **recheck})
    if over:
        return over
    if verdict.outcome == "inconclusive" and plan.gates.on_inconclusive == "fail":
        return "; ".join(verdict.reasons) or "its gate could not tell"
    return no_headroom(plan)


def with_wire(verdict: WaveVerdict, watched: Sighting | None) -> WaveVerdict:
    """The same with what the sentinels saw: who cannot be seen does not pass."""
    if watched is None or watched.sight in ("clean", "none"):
        return verdict
    reason = f"sentinel {watched.sight}: {watched.why}"
    if watched.sight == "leak":
        return replace(verdict, outcome="fail", reasons=(reason, *verdict.reasons))
    outcome: Any = "inconclusive" if verdict.outcome == "pass" else verdict.outcome
    return replace(verdict, outcome=outcome, reasons=(*verdict.reasons, reason))


def waits_for(verdict: WaveVerdict, wave: Wave, controls: Controls, *, decided: bool) -> str | None:
    """What a wave that can be promoted waits for; None: nothing.

    :param decided: a person has promoted it.
    """
    if controls.pause:
        return "paused"
    if decided:
        return None
    if verdict.outcome == "inconclusive":
        return "inconclusive"
    return "approval" if wave.approve else None


def may_go_on(on: str, wave: int, controls: Controls, now: float, until: float | None) -> str | None:
    """Who or what ends a wait; None: it goes on. Whether the run was aborted has to be asked before."""
    if on == "paused":
        return None if controls.pause else "resume"
    if on == "freeze":
        return None if until is not None and now < until else "the end of the freeze"
    asked = controls.promote.get(wave) or controls.promote.get(0)
    return asked.by if asked else None
