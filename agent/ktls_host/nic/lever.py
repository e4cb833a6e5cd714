# SPDX-License-Identifier: Apache-2.0
"""The ``offload`` lever: let network cards encrypt TLS, or keep them from it, now and whenever the link comes back.

``probe`` reads, ``plan`` decides and is pure, ``adopt`` adds what must be remembered, ``apply`` acts and checks what
came of it. :func:`present` does all of it under the lock of all levers; :mod:`.restore` takes it back.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field, replace

from .. import files, originals
from ..commands import CommandResult, Runner
from ..errors import KtlsError
from ..files import FileSpec
from . import drivers, outcome, remembered, targets, udev_rule
from . import probe as nic_probe
from .interface import Nic
from .outcome import Adopted, InterfacePlan, Outcome
from .remembered import Memory
from .targets import DesiredOffload


@dataclass(frozen=True)
class OffloadState:
    """All interfaces, what is remembered of each that was changed before, and where ethtool is (None: nowhere)."""

    nics: tuple[Nic, ...]
    memories: dict[str, Memory] = field(default_factory=dict)
    program: str | None = None


def present(
    desired: DesiredOffload,
    *,
    check: bool = False,
    root: str = "/",
    runner: Runner | None = None,
    held: bool = False,
) -> Outcome:
    """Bring the host to ``desired``; with ``check`` only say what that would do, or raise what it would raise.

    ``held``: the caller holds the lock of all levers.

    Raises :class:`KtlsError`: those of :func:`plan`, :func:`adopt` and :func:`apply`, and ``levers_busy``.
    """
    runner = runner or Runner()
    with contextlib.nullcontext() if check or held else originals.lock(root):
        state = probe(desired, root, runner)
        adopted = adopt(plan(state, desired), root)
        steps, diff = outcome.steps_of(adopted), outcome.diff_of(adopted)
        udev_rule.check(
            [found.plan.rule for found in adopted if found.plan.rule and found.adoption.changes], runner, root
        )
        if check or not steps:
            after = {found.plan.nic.name: found.plan.nic for found in adopted}
            expected = outcome.predict(adopted)
        else:
            after = apply(adopted, runner, root)
            expected = outcome.changes(adopted, after)
    nics = tuple(after.get(nic.name, nic).as_dict() for nic in state.nics if _is_about(nic, after))
    return Outcome(steps, diff, nics, expected)


def probe(desired: DesiredOffload, root: str = "/", runner: Runner | None = None) -> OffloadState:
    """Read the host. Raises :class:`KtlsError` ``record_unreadable``."""
    nics = nic_probe.probe(root, runner, also=desired.interfaces or ())
    return OffloadState(nics, memories(root), udev_rule.find_ethtool(root))


def memories(root: str = "/") -> dict[str, Memory]:
    """Return what is remembered, by interface. Raises :class:`KtlsError` ``record_unreadable``."""
    found = {}
    for lever in originals.levers(root):
        if remembered.interface_of(lever) is None:
            continue
        record = originals.load(lever, root)
        if record is None:  # a record that cannot be read is listed by its file
            originals.load(lever.rpartition(".json")[0], root)
            message = (
                f"{originals.DIRECTORY}/{lever} is not a record of this release; set the features by hand, remove it"
            )
            raise KtlsError("record_unreadable", message)
        found[lever] = Memory.parse(lever, record.facts)
    return {str(remembered.interface_of(lever)): memory for lever, memory in found.items()}


def plan(state: OffloadState, desired: DesiredOffload) -> tuple[InterfacePlan, ...]:
    """Return what to do to each interface. Pure.

    Raises :class:`KtlsError`: those of :func:`.targets.select` and :func:`.targets.refuse_unable`,
    ``ethtool_missing``, ``interface_name_unsafe``.
    """
    plans = []
    for nic in targets.select(desired, state.nics):
        targets.refuse_unable(nic, desired)
        memory = state.memories.get(nic.name) or Memory.first(nic)
        features = {name: on for name, on in desired.asked.items() if _differs(nic, name, on)}
        wishes = {**memory.persisted, **desired.asked} if desired.persistent else {}
        kept = {name: on for name, on in wishes.items() if _changeable(nic, name)}
        if kept:
            if state.program is None:
                message = "there is no program ethtool that a udev rule could run; install package ethtool"
                raise KtlsError("ethtool_missing", f"{message}, or use persistent: false")
            rule: FileSpec | None = udev_rule.spec(nic.name, kept, state.program)
        else:
            # Somebody with such a name never had a rule, and needs none removed.
            rule = None
            with contextlib.suppress(KtlsError):
                rule = udev_rule.spec(nic.name, {}, "")
        plans.append(InterfacePlan(nic, features, rule, memory.before_change(nic, kept)))
    return tuple(plans)


def adopt(plans: tuple[InterfacePlan, ...], root: str = "/") -> tuple[Adopted, ...]:
    """Compare with the files and records of the host; only reads. Interfaces with nothing to do are left out.

    Raises :class:`KtlsError`: ``edited_meanwhile`` and the others of :func:`ktls_host.originals.plan`.
    """
    adopted = []
    for found in plans:
        specs = [found.rule] if found.rule else []
        adoption = originals.plan(remembered.lever_of(found.nic.name), specs, root=root)
        record = replace(adoption.record, facts=found.memory.as_facts())
        if found.features or adoption.changes:
            adopted.append(Adopted(found, replace(adoption, record=record)))
    return tuple(adopted)


def apply(adopted: tuple[Adopted, ...], runner: Runner, root: str = "/") -> dict[str, Nic]:
    """Carry the plans out: records, features, rule files, udev. Returns the interfaces as they are afterwards.

    When anything fails all is put back as it was before the call. Raises :class:`KtlsError`:
    ``offload_not_effective``, ``not_permitted``, ``udev_reload_failed``, those of :func:`ktls_host.files.apply`, and
    ``offload_not_restored`` when not even that worked.
    """
    after: dict[str, Nic] = {}
    try:
        for found in adopted:
            originals.save(found.adoption.record, root)
        for found in adopted:
            nic = found.plan.nic
            if found.plan.features:
                result = runner.run(outcome.features_argv(nic.name, found.plan.features))
                nic = nic_probe.ask(nic, runner)
                verify(nic, found.plan.features, result)
            after[nic.name] = nic
        for found in adopted:
            files.apply(found.adoption.changes)
        if any(found.adoption.changes for found in adopted):
            udev_rule.reload(runner)
        for found in adopted:
            settled = found.plan.memory.settled(after[found.plan.nic.name])
            originals.save(replace(found.adoption.record, facts=settled.as_facts()), root)
    except KtlsError as error:
        _undo(adopted, runner, root, error)
        raise
    return after


def verify(nic: Nic, wishes: dict[str, bool], result: CommandResult | None = None) -> None:
    """Check that the features of ``nic`` are as requested; ``result`` is what ``ethtool -K`` said.

    Raises :class:`KtlsError`: ``offload_not_effective``, ``not_permitted``.
    """
    wrong = {name: on for name, on in wishes.items() if name not in nic.features or nic.features[name].on != on}
    if not wrong:
        return
    said = result.reason if result and result.rc != 0 else ""
    if "not permitted" in said.lower():
        message = f"ethtool may not change {nic.name} ({said}); run as root, not in a container"
        raise KtlsError("not_permitted", message)
    was = ", ".join(
        f"{name} is {nic.features[name].words if name in nic.features else 'gone'}" for name in sorted(wrong)
    )
    message = f"{nic.name} did not take {_wish(wrong)}: {was}{f' ({said})' if said else ''}; {_cure(nic, wrong)}"
    raise KtlsError("offload_not_effective", message)


def _undo(adopted: tuple[Adopted, ...], runner: Runner, root: str, cause: KtlsError) -> None:
    """Put everything back as it was before :func:`apply`, last change first."""
    try:
        for found in reversed(adopted):
            _undo_file(found, root)
        if any(found.adoption.changes for found in adopted):
            with contextlib.suppress(KtlsError):  # udev finds changed files by itself, too
                udev_rule.reload(runner)
        for found in reversed(adopted):
            _undo_features(found, runner)
        for found in reversed(adopted):
            if found.adoption.known is None:
                originals.forget(originals.Restoration(found.adoption.record, root=root))
            else:
                originals.save(found.adoption.known, root)
    except KtlsError as error:
        message = (
            f"{cause.message}; putting back what was changed failed too ({error.message}); "
            f"mend that, then run ktls_offload with state: absent"
        )
        raise KtlsError("offload_not_restored", message) from cause


def _undo_file(found: Adopted, root: str) -> None:
    for change in found.adoption.changes:
        if change.before is None:
            files.apply(files.plan_files([FileSpec.absent(change.spec.path)], root))
        elif originals.read(change.spec.path, root).content != change.before:
            was = found.adoption.record.of(change.spec.path)
            mode, uid, gid = 0o644, 0, 0
            if was and was.original.content == change.before:
                mode, uid, gid = was.original.mode, was.original.uid, was.original.gid
            files.atomic_write(os.path.join(root, change.spec.path.lstrip("/")), change.before, mode, uid, gid)


def _undo_features(found: Adopted, runner: Runner) -> None:
    nic = nic_probe.ask(found.plan.nic, runner)
    asked = {name: found.plan.nic.features[name].requested for name in found.plan.features}
    back = {name: on for name, on in asked.items() if name in nic.features and nic.features[name].requested != on}
    if back:
        result = runner.run(outcome.features_argv(nic.name, back))
        nic = nic_probe.ask(nic, runner)
        still = [name for name, on in back.items() if name in nic.features and nic.features[name].requested != on]
        if still:
            message = f"ethtool -K {nic.name} did not put back {', '.join(still)} ({result.reason})"
            raise KtlsError("offload_not_effective", message)


def _differs(nic: Nic, name: str, on: bool) -> bool:
    """A feature that is off although it is requested would come on by itself: off means that nobody asks for it."""
    feature = nic.features.get(name)
    if feature is None or feature.fixed:
        return False
    return feature.on != on or feature.requested != on


def _changeable(nic: Nic, name: str) -> bool:
    return name in nic.features and not nic.features[name].fixed


def _is_about(nic: Nic, after: dict[str, Nic]) -> bool:
    return nic.name in after or bool(nic.bond and set(nic.bond.slaves) & after.keys())


def _wish(wishes: dict[str, bool]) -> str:
    return ", ".join(f"{name} {'on' if on else 'off'}" for name, on in sorted(wishes.items()))


def _cure(nic: Nic, wrong: dict[str, bool]) -> str:
    on = {name for name, feature in nic.features.items() if feature.on}
    for direction, name in drivers.FEATURES.items():
        if wrong.get(name) and not any(names <= on for names in drivers.NEEDED[direction]):
            return f"it needs checksum offload, which is off: ethtool -K {nic.name} {direction} on, then repeat"
    return "all was put back as it was; see the kernel log of this host"
