# SPDX-License-Identifier: Apache-2.0
"""The start of a run, or of what is left of one: plan, lock, epoch, journal; nothing on a host is changed here."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import ControlError
from ..observers import check as check_observers
from ..plan import datapaths
from ..plan import file as plan_file
from ..plan.cards import SENTINELS
from ..plan.model import Plan
from . import answers, control, implicit, lock, machine, store
from .engine import Fleet
from .journal import Journal
from .state import RunState, fold

#: A pattern that no host matches: what Ansible is given when nothing is left to do.
NOBODY = "all:!all"


@dataclass(frozen=True)
class Wanted:
    """What was asked for.

    :param plan: a plan as its fields, or the path of one; None: ``phase`` and ``settings`` make one.
    :param hosts: hosts of the group that Ansible will go to, in inventory order.
    :param variables: the variables of a host, by its name.
    :param pid: of the process whose life the lock is bound to.
    :param check: change nothing, not even here.
    """

    plan: Mapping[str, Any] | str | None
    phase: str | None
    group: str
    inventory: str
    hosts: Sequence[str]
    settings: implicit.Settings
    variables: Callable[[str], Mapping[str, Any]]
    pid: int
    check: bool = False


@dataclass(frozen=True)
class Begun:
    """A run that may go on.

    :param hosts: whom Ansible goes to, in the order of the plan; ``sizes``: of the waves that they are.
    """

    run: store.Run
    plan: Plan
    epoch: int
    hosts: tuple[str, ...]
    sizes: tuple[int, ...]
    resumed: bool


def begin(wanted: Wanted) -> Begun:
    """:raises ControlError: the run may not start; no host was changed."""
    known = answers.Known({name: _reach(name, wanted.variables(name)) for name in wanted.hosts})
    if wanted.plan is None:
        plan = _implicit(wanted, known)
        seen = plan.epoch_floor
    else:
        plan = _given(wanted.plan)
        seen = 0
    machine.refuse(plan)
    known = _with_sentinels(known, plan, wanted)
    machine.check_freezes(plan)
    check_observers()
    _covered(plan, wanted.hosts)
    if wanted.check:
        return _rehearse(plan, known)
    fleet = store.Fleet(store.state_dir() / plan.fleet)
    who = control.operator()
    _writable(fleet)
    lock.take(fleet.lock, operator=who, run="starting", pid=wanted.pid)
    try:
        return _start(fleet, plan, known, who, seen)
    except BaseException:
        lock.release(fleet.lock, wanted.pid)
        raise


def _with_sentinels(known: answers.Known, plan: Plan, wanted: Wanted) -> answers.Known:
    names = plan.hardware.sentinels if plan.hardware else ()
    missing = [name for name in names if name not in wanted.settings.sentinels]
    if missing:
        raise ControlError(
            "no_sentinel",
            f"plan {plan.id}: {', '.join(missing)} is to watch the wire, and is not in group {SENTINELS} of the "
            "inventory: put it back, or plan again",
        )
    return replace(known, sentinels={name: _reach(name, wanted.variables(name)) for name in names})


def _writable(fleet: store.Fleet) -> None:
    try:
        fleet.directory.mkdir(parents=True, exist_ok=True, mode=0o750)
    except OSError as error:
        raise ControlError(
            "no_state_dir",
            f"{fleet.directory}: {error.strerror}: make it writable, or name another place in KTLS_STATE_DIR",
        ) from error


def _reach(host: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name in answers.REACH:
        try:
            value = variables.get(name)
        except Exception as error:
            # A template that fails: another address than Ansible's must not be taken in its place.
            why = " ".join(str(error).split())
            raise ControlError(
                "bad_inventory", f"{host}: {name} of the inventory cannot be worked out: {why}"
            ) from error
        if value is not None:
            found[name] = value
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain


def _given(given: Mapping[str, Any] | str) -> Plan:
    if isinstance(given, str):
        return plan_file.load(Path(given))
    return plan_file.from_fields(json.loads(json.dumps(given)), str(given.get("id") or "ktls_plan"))


def _implicit(wanted: Wanted, known: answers.Known) -> Plan:
    implicit.check(wanted.phase, wanted.group, wanted.hosts, wanted.settings)
    statuses: dict[str, Mapping[str, Any]] = {}
    lost: dict[str, str] = {}
    with closing(Fleet(known.hosts)) as fleet:
        for reply in fleet.ask(wanted.hosts, "status"):
            name = reply.host
            if reply.data is None:
                why = str(reply.error).removeprefix(f"{name}: ").removeprefix(f"{name} ")
                lost[name] = f"{name} {'answers, but' if reply.reached else 'cannot be reached:'} {why}"
            else:
                statuses[name] = reply.data
    if lost:
        raise ControlError("cut_off", "; ".join(lost[name] for name in wanted.hosts if name in lost))
    return implicit.make(
        wanted.phase, wanted.group, wanted.inventory, wanted.hosts, wanted.settings, statuses, time.time()
    )


def _covered(plan: Plan, hosts: Sequence[str]) -> None:
    missing = [name for wave in plan.waves for name in wave.hosts if name not in set(hosts)]
    if missing:
        some = ", ".join(missing[:10]) + (" and more" if len(missing) > 10 else "")
        raise ControlError(
            "hosts_missing",
            f"plan {plan.id}: not among the hosts of group {plan.group} that this run goes to: {some}: "
            "a plan is applied whole; plan again for fewer hosts",
        )
    unplanned = [name for wave in plan.waves for name in wave.hosts if name not in plan.hosts]
    if unplanned:
        raise ControlError("bad_plan", f"plan {plan.id}: nothing is said of {', '.join(unplanned[:10])}")


def _start(fleet: store.Fleet, plan: Plan, known: answers.Known, who: str, seen: int) -> Begun:
    found = _unfinished(fleet, plan)
    _not_aborted(fleet, plan, found)
    run = found or fleet.make(plan.id.replace("/", "-")[:48], time.time())
    lock.name_run(fleet.lock, run.name)
    with Journal(run.journal) as journal:
        state = fold(journal.events)
        epoch = lock.next_epoch(fleet.epoch, plan.epoch_floor, seen, state.epoch)
        journal.keep_reserve()
        answers.save_known(run, known)
        if found and journal.events:
            journal.append("run_resumed", operator=who, epoch=epoch)
        else:
            plan_file.save(plan, run.plan)
            waves = [{"number": w.number, "name": w.name, "hosts": list(w.hosts)} for w in plan.waves]
            journal.append(
                "run_started", run=run.name, fleet=plan.fleet, epoch=epoch, phase=plan.phase,
                plan_sha256=plan.sha256, operator=who, hosts=len(plan.hosts), waves=waves, **datapaths.told(plan),
            )  # fmt: skip
        return _begun(run, plan, fold(journal.events), resumed=found is not None)


def _begun(run: store.Run, plan: Plan, state: RunState, *, resumed: bool) -> Begun:
    order = {wave.number: wave.hosts for wave in plan.waves}
    left = [order[wave.number] for wave in machine.left(state)]
    hosts = tuple(name for wave in left for name in wave)
    return Begun(run, plan, state.epoch, hosts or (NOBODY,), tuple(len(wave) for wave in left) or (1,), resumed)


def _rehearse(plan: Plan, known: answers.Known) -> Begun:
    """Check mode: the same steps over a directory that is thrown away, without lock or epoch."""
    scratch = store.Fleet(Path(tempfile.mkdtemp(prefix="ktls-check-")) / plan.fleet)
    run = scratch.make("check", time.time())
    plan_file.save(plan, run.plan)
    answers.save_known(run, known)
    waves = [{"number": w.number, "name": w.name, "hosts": list(w.hosts)} for w in plan.waves]
    with Journal(run.journal) as journal:
        journal.append(
            "run_started", run=run.name, fleet=plan.fleet, epoch=plan.epoch_floor + 1, phase=plan.phase,
            plan_sha256=plan.sha256, operator="check", hosts=len(plan.hosts), waves=waves, **datapaths.told(plan),
        )  # fmt: skip
        return _begun(run, plan, fold(journal.events), resumed=False)


def _unfinished(fleet: store.Fleet, plan: Plan) -> store.Run | None:
    """The run of this plan that never ended; one of another plan is in the way, or is closed if nobody planned it.

    :raises ControlError: ``unfinished_run``, ``journal_broken``.
    """
    for run in reversed(fleet.runs()):
        if ended(run):
            continue
        with Journal(run.journal) as journal:
            state = fold(journal.events)
            if state.plan_sha256 == plan.sha256:
                return run
            if not plan.id.startswith(implicit.PREFIX):
                raise ControlError(
                    "unfinished_run",
                    f"{fleet.name}: run {run.name} of another plan never ended: `ktls resume` it; to take its open "
                    "wave back, `ktls abort` it first",
                )
            _close(journal, state)
    return None


def _close(journal: Journal, state: RunState) -> None:
    """End a run that nobody drives. Its unconfirmed hosts go back by their leases; new orders fence it off."""
    wave = machine.unfinished(state)
    where = f" while wave {wave.number} was under way" if wave and wave.attempt else ""
    journal.append("run_ended", outcome="failed", why=f"its process died{where}; another rollout was asked for")


def _not_aborted(fleet: store.Fleet, plan: Plan, found: store.Run | None) -> None:
    """Abort is sticky: the same plan does not start again.

    :raises ControlError: ``plan_aborted``.
    """
    if found or plan.id.startswith(implicit.PREFIX):
        return
    for run in fleet.runs():
        last = _last_event(run)
        if last and last.get("outcome") == "aborted" and _sha256(run) == plan.sha256:
            raise ControlError(
                "plan_aborted",
                f"plan {plan.id} was aborted (run {run.name}: {last.get('why')}): abort holds; make a new plan with "
                "`ktls plan`",
            )


def _sha256(run: store.Run) -> str:
    try:
        with open(run.journal, "rb") as file:
            return str(json.loads(file.readline(16_000_000)).get("plan_sha256"))
    except (OSError, ValueError, AttributeError):
        return ""


def ended(run: store.Run) -> bool:
    """Whether the last thing that happened in a run is its end."""
    last = _last_event(run)
    return last is not None and last.get("event") == "run_ended"


def _last_event(run: store.Run) -> dict[str, Any] | None:
    """The last event but for who was told of it, from the end of the journal alone; None: it is too long, or cut."""
    try:
        with open(run.journal, "rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - 65536))
            lines = file.read().split(b"\n")
    except OSError:
        return None
    events = (_event(line) for line in reversed(lines))
    return next((event for event in events if event and event.get("event") != "notified"), None)


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
