# SPDX-License-Identifier: Apache-2.0
"""From what was seen of a fleet and what its operator wants to a plan. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from ktls_host import datapath_status
from ktls_host.drift import facts

from ..judge import kinds as groups
from ..judge.hardware import eligible_share
from ..judge.model import HostSeries
from ..preflight import HostRow
from ..preflight_names import natural
from . import cards, datapaths, headroom, notes, refusals, timing, waves
from .drills import Drill
from .file import VERSION, seal
from .labels import labels
from .model import Gates, Hardware, Headroom, Plan, PlannedHost, Refusal, Soak, Wave
from .policy import LABELS, Policy, WavePolicy

#: Smallest harm by metric that a wave of so many hosts can tell from noise, with so many that come later; of one kind
#: of datapath, which is named.
Detect = Callable[[Gates, Soak, int, int, str], Mapping[str, float | None]]


#: Of recorded peaks: a host that serves nothing now would have any.
_MOST_PEAK = 3.0


@dataclass(frozen=True)
class Ask:
    """What the operator asked for.

    :param now: seconds since the epoch, control node.
    :param sentinels: machines of the inventory that watch the wire; ``without_sentinel``: there need be none. For
        phase ``hw``.
    :param sentinel_notes: what to know of these machines.
    """

    phase: str
    inventory: str
    group: str
    limit: str | None
    fleet: str
    now: float
    sentinels: tuple[str, ...] = ()
    without_sentinel: bool = False
    sentinel_notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What is known of one host.

    :param variables: of the inventory.
    :param row: what preflight found.
    :param status: its agent's; None when it gave none, and ``error`` says why.
    :param series: what its agent recorded; None when it was not asked, or did not say.
    """

    variables: Mapping[str, Any]
    row: HostRow
    status: Mapping[str, Any] | None
    error: str | None = None
    drill: Drill | None = None
    series: HostSeries | None = None


@dataclass
class _Sorted:
    """Hosts as they fall."""

    planned: dict[str, PlannedHost] = field(default_factory=dict)
    refused: dict[str, tuple[Refusal, ...]] = field(default_factory=dict)


def build(ask: Ask, seen: Mapping[str, Seen], policy: Policy, detect: Detect | None = None) -> Plan:
    """A sealed plan; without an eligible host it has no waves.

    :raises ControlError: ``too_many_waves``, ``short_lease``, ``long_lease``, ``no_sentinel``.
    """
    hardware = cards.hardware(ask.phase, ask.sentinels, ask.without_sentinel)
    series = [one.series for one in seen.values() if one.series is not None]
    measured = _headroom(seen, policy, series)
    sorted_ = _sort(ask, seen, policy, measured)
    traffic = timing.traffic(series)
    planned = _waves(sorted_.planned, policy, traffic, detect)
    loads = {name: measured[0][name] for name in sorted_.planned}
    known = {name: load for name, load in loads.items() if load is not None}
    worst = max(known, key=lambda name: known[name], default=None)
    freezes = tuple(freeze for freeze in policy.freezes if datetime.fromisoformat(freeze.end).timestamp() > ask.now)
    created = datetime.fromtimestamp(int(ask.now), UTC)
    plan = Plan(
        version=VERSION,
        id=f"{ask.phase}-{created:%Y%m%d-%H%M%S}",
        created=created.isoformat(),
        phase=ask.phase,
        inventory=ask.inventory,
        group=ask.group,
        limit=ask.limit,
        fleet=ask.fleet,
        epoch_floor=max((_epoch(one.status) for one in seen.values()), default=0),
        lease_s=timing.lease_s([(len(wave.hosts), wave.soak) for wave in planned], policy.host_s, policy.lease_s),
        failure_budget=policy.failure_budget.of(len(sorted_.planned)),
        hosts=sorted_.planned,
        refused=sorted_.refused,
        waves=planned,
        gates=policy.gates,
        caps={label: policy.caps[label] for label in LABELS if policy.cap(label) < 1},
        freezes=freezes,
        headroom=Headroom(
            worst,
            known[worst] if worst else None,
            policy.headroom_limit,
            len(loads) - len(known),
            None if measured[1] is None else round(measured[1], 3),
        ),
        expected_s=round(sum(wave.expected_s for wave in planned), 1),
        hardware=None if hardware is None else _hardware(hardware, seen, sorted_),
        earlier=policy.earlier,
    )
    told = notes.notes(plan, seen, policy, traffic, ask.now, ask.sentinel_notes)
    return seal(replace(plan, notes=told))


def _hardware(hardware: Hardware, seen: Mapping[str, Seen], sorted_: _Sorted) -> Hardware:
    shares = [share for name in sorted_.planned if (share := eligible_share(seen[name].status)) is not None]
    return replace(hardware, eligible=round(min(shares), 4) if shares else None)


def _epoch(status: Mapping[str, Any] | None) -> int:
    epoch = (status or {}).get("epoch")
    return epoch if isinstance(epoch, int) else 0


def _headroom(
    seen: Mapping[str, Seen], policy: Policy, series: Sequence[HostSeries]
) -> tuple[dict[str, float | None], float | None]:
    """What each host needs after an off, and the ratio that it was reckoned with, the dearest of all datapaths'."""
    peak = policy.headroom_peak or min(headroom.peak(series) or 1.0, _MOST_PEAK)
    # Programs differ in what a byte costs, so each is compared with its own.
    kinds = {name: datapath_status.of(one.status).name for name, one in seen.items()}
    ratios = {
        kind: policy.headroom_ratio
        or headroom.ratio(one.status for name, one in seen.items() if one.status and kinds[name] == kind)
        for kind in set(kinds.values())
    }
    needs: dict[str, float | None] = {}
    for name, one in seen.items():
        serving = headroom.serving(one.series) if one.series else None
        share = headroom.ktls_share(one.status) if one.status else None
        load = headroom.Load(one.row.cpus, one.row.busy, serving, share)
        if share == 0 and policy.headroom_peak is None:
            # Off adds nothing to what it bears today, however busy a moment it was looked at in.
            needs[name] = None if load.busy is None else min(load.busy, policy.headroom_limit)
            continue
        need = headroom.after_off(load, peak, ratios[kinds[name]])
        needs[name] = None if need is None else round(need, 4)
    return needs, max((ratio for ratio in ratios.values() if ratio is not None), default=None)


def _sort(
    ask: Ask, seen: Mapping[str, Seen], policy: Policy, measured: tuple[Mapping[str, float | None], Any]
) -> _Sorted:
    found = _Sorted()
    for name in sorted(seen, key=natural):
        one = seen[name]
        why = refusals.of_preflight(one.row.phases[ask.phase])
        # Of a host that cannot be reached that is all there is to say.
        if one.status is not None or not any(each.code == "cut_off" for each in why):
            why += refusals.of_status(one.status, one.error, ask.phase, policy)
            why += refusals.of_drill(one.drill, one.row, ask.now, policy, ask.phase, one.status)
            why += refusals.of_headroom(measured[0][name], ask.phase, policy)
        # Where no card can offload anything, what clients negotiate is of no interest.
        if ask.phase == "hw" and one.row.phases["hw"].verdict == "ready" and one.status is not None:
            why += cards.of_host(one.status, policy.hw_min_eligible)
        # What preflight found and what the agent says may be the same thing.
        why = list({one.code: one for one in reversed(why)}.values())[::-1]
        if any(one.code == "already_there" for one in why):
            # The rest is of no interest: nothing is going to be done there.
            why = [one for one in why if one.code == "already_there"]
        if why or one.status is None:
            found.refused[name] = tuple(why)
            continue
        read = facts(one.status)
        hw = ask.phase == "hw"
        found.planned[name] = PlannedHost(
            read,
            labels(one.variables, policy.variables, one.row, read),
            one.row.cpus,
            one.row.busy,
            cards.cards(one.status) if hw else {},
            hw and cards.consents(one.status),
            datapaths.of_status(one.status),
        )
    return found


def _waves(
    hosts: Mapping[str, PlannedHost], policy: Policy, traffic: timing.Traffic, detect: Detect | None
) -> tuple[Wave, ...]:
    drawn = waves.assign(
        {name: host.labels for name, host in hosts.items()},
        [entry.size.of for entry in policy.waves],
        {label: policy.cap(label) for label in LABELS if policy.cap(label) < 1},
        policy.salt,
        policy.canaries,
    )
    names: Counter[str] = Counter()
    made = []
    later_of = Counter(host.datapath.name for host in hosts.values())
    for number, members in enumerate(drawn, start=1):
        later_of.subtract(Counter(hosts[name].datapath.name for name in members))
        entry = policy.waves[min(number, len(policy.waves)) - 1]
        soak = entry.soak or policy.soak
        told = _detectable(hosts, members, later_of, policy.gates, soak, detect) if detect else {}
        made.append(
            Wave(
                number=number,
                name=_name(entry, number, names),
                hosts=tuple(members),
                soak=soak,
                approve=number in policy.approve if entry.approve is None else entry.approve,
                detectable=_rounded(told),
                expected_s=timing.expected_s(soak, len(members), policy.host_s, traffic),
            )
        )
    return tuple(made)


def _detectable(
    hosts: Mapping[str, PlannedHost],
    members: Sequence[str],
    later_of: Mapping[str, int],
    gates: Gates,
    soak: Soak,
    detect: Detect,
) -> Mapping[str, float | None]:
    """What a wave can tell: of the datapath that can tell least, where it has several.

    :param later_of: hosts of later waves, by kind of datapath.
    """
    kinds = groups.kinds({name: hosts[name].datapath for name in members})
    found: dict[str, float | None] = {}
    for kind in kinds:
        of_it = [name for name in members if hosts[name].datapath.name == kind]
        own = groups.gates_of(gates, kinds[kind].experiments, len(kinds))
        told = detect(own, soak, len(of_it), later_of[kind], kind)
        unfed = {name for host in of_it for name in groups.unfed_metrics(hosts[host].datapath.unfed)}
        for name, value in told.items():
            before = found.get(name, value)
            found[name] = None if value is None or before is None or name in unfed else max(value, before)
    return found


def _rounded(found: Mapping[str, float | None]) -> dict[str, float | None]:
    """Plain numbers: it is an estimate, and a file that people read."""
    return {name: None if value is None else float(f"{value:.3g}") for name, value in found.items()}


def _name(entry: WavePolicy, number: int, used: Counter[str]) -> str:
    """Unique: the last entry may make several waves."""
    name = entry.name or f"wave {number}"
    used[name] += 1
    return name if used[name] == 1 else f"{name} {used[name]}"
