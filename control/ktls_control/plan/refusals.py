# SPDX-License-Identifier: Apache-2.0
"""Why a plan leaves a host out, beside what preflight says. Pure; every code is in docs/diagnostics.md."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ktls_host import datapath_status

from ..preflight import HostRow, PhaseRow
from ..request import PHASES
from . import cards, datapaths
from .drills import Drill
from .model import Refusal
from .policy import Policy
from .texts import harmless

#: Code and cure.
CURES: Mapping[str, str] = {
    "agent_silent": "deploy (ktls deploy), or see why it does not answer: systemctl status ktls-agent on the host",
    "datapath_down": (
        "start it: systemctl status ktls-sidecar (or of the unit that serves) on the host says why it is down"
    ),
    "off_flag_up": "if the reason is over, take the flag down on the host: ktls-agent clear",
    "host_stuck": "repair what `problems` of ktls status says, then ktls-agent clear on the host",
    "order_pending": "wait until that rollout is over, or abort it; an order that nobody confirms reverts by itself",
    "already_there": "nothing to do; policy include_done: true plans it all the same",
    "rung_missing": "roll that phase out first; policy skip_rungs: true goes without",
    "drill_missing": "ktls drill; policy drill_required: false goes without",
    "drill_failed": "the drill says what did not come back: mend it, then ktls drill again",
    "drill_stale": "ktls drill again; policy drill_max_age_s says how old one may be",
    "no_headroom": "take load off the host; policy headroom_limit is the limit",
    **cards.CURES,
    **datapaths.CURES,
}


def refusal(code: str, message: str) -> Refusal:
    """One with the cure of its code."""
    return Refusal(code, harmless(message), CURES[code])


def of_preflight(row: PhaseRow) -> list[Refusal]:
    """What preflight found; nothing when the host is ready."""
    if row.verdict == "ready":
        return []
    return [Refusal(why.code, harmless(why.message), harmless(why.cure)) for why in row.reasons] or [
        Refusal("no_answer", "the host gave no reason", "ktls preflight says more")
    ]


def of_status(status: Mapping[str, Any] | None, error: str | None, phase: str, policy: Policy) -> list[Refusal]:
    """What the agent's state forbids.

    :param status: None when it gave none, and ``error`` says why.
    """
    if status is None:
        return [refusal("agent_silent", error or "the agent did not answer")]
    found = []
    why = datapaths.down(status)
    if why:
        found.append(refusal("datapath_down", why))
    off = status.get("off") or {}
    if off.get("flag") and phase != "userspace":
        found.append(refusal("off_flag_up", f"the off flag is up: {off.get('reason') or 'no reason given'}"))
    if status.get("stuck"):
        found.append(refusal("host_stuck", "a revert could not be finished, and kTLS orders are refused"))
    if status.get("order") == "pending":
        found.append(refusal("order_pending", f"order {status.get('order_id')} waits for its confirmation"))
    if _done(status, phase) and not policy.include_done:
        means = datapath_status.of(status).means(phase)
        words = f"phase {phase}" if means == phase else f"phase {phase} ({means})"
        return [*found, refusal("already_there", f"{words} is in force and confirmed")]
    if datapaths.there_already(status, phase) and not policy.include_done:
        return [*found, refusal("already_there", "its confirmed phase tx is tx+rx: both directions are in the kernel")]
    return [*found, *datapaths.refusals(status, phase), *_rung(status, phase, policy)]


def _done(status: Mapping[str, Any], phase: str) -> bool:
    # An agent may call what is in force by its full name.
    in_force = status.get("phase") in (phase, datapath_status.of(status).means(phase))
    return in_force and (status.get("order"), status.get("ordered_phase")) == ("committed", phase)


def _rung(status: Mapping[str, Any], phase: str, policy: Policy) -> list[Refusal]:
    """Phases above ``tx`` begin on the one before; ``tx`` begins on a host that runs."""
    # Many a host that can offload cannot take rx, and a card needs none of it.
    below = PHASES[1 : PHASES.index(phase)] if phase == "hw" else PHASES[PHASES.index(phase) - 1 : PHASES.index(phase)]
    if PHASES.index(phase) <= 1 or policy.skip_rungs:
        return []
    confirmed = status.get("ordered_phase") if status.get("order") == "committed" else None
    if confirmed in (*below, phase):
        return []
    words = " or ".join(below)
    return [
        refusal("rung_missing", f"{phase} begins on hosts where {words} is confirmed; here it is {status.get('phase')}")
    ]


def of_drill(
    drill: Drill | None,
    row: HostRow,
    now: float,
    policy: Policy,
    phase: str = "tx",
    status: Mapping[str, Any] | None = None,
) -> list[Refusal]:
    """A host that never showed that it comes back, as it is now, is not sent away.

    :param phase: ``hw`` needs a drill of its own.
    :param status: its agent's: a drill of another datapath says nothing of this one.
    """
    if not policy.drill_required:
        return []
    if drill is None:
        which = "no drill of phase hw (ktls drill --phase hw)" if phase == "hw" else "no drill"
        return [refusal("drill_missing", f"{which} of this host is on record")]
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(drill.at))
    if not drill.passed:
        return [refusal("drill_failed", f"the drill of {when} failed: {drill.detail or 'no reason given'}")]
    if now - drill.at > policy.drill_max_age_s:
        days = f"{policy.drill_max_age_s / 86400:g} days"
        return [refusal("drill_stale", f"the last drill, of {when}, is older than {days}")]
    found = datapath_status.of(status)
    serves = f"{found.kind} {found.unit}".strip() if not found.is_sidecar else found.kind
    if status is not None and drill.datapath != serves:
        return [refusal("drill_stale", f"the last drill was of datapath {drill.datapath}, and {serves} serves now")]
    changed = [
        f"{name} was {then}, is {is_}"
        for name, then, is_ in (
            ("kernel", drill.kernel, row.kernel),
            ("OpenSSL", drill.openssl, row.openssl),
            ("the program", drill.program, f"{found.program} {found.version}".strip()),
        )
        if then and is_ and then != is_
    ]
    return [refusal("drill_stale", f"since the last drill {' and '.join(changed)}")] if changed else []


def of_headroom(need: float | None, phase: str, policy: Policy) -> list[Refusal]:
    """A host that could not bear an off.

    :param need: share of its CPUs that it would take; None unknown, which refuses nobody.
    """
    if need is None or need <= policy.headroom_limit or phase == "userspace":
        return []
    return [
        refusal(
            "no_headroom",
            f"with everything in userspace it needs {100 * need:.0f} % of its CPUs in its busiest hour, "
            f"more than {100 * policy.headroom_limit:g} %",
        )
    ]
