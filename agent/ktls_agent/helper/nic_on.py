# SPDX-License-Identifier: Apache-2.0
"""Network cards on for phase ``hw``, and back to what they were right before it.

Receiving by the card is not switched on: kernels up to 7.3 may hang when such a link goes down. An operator who wants
it says so with ktls_offload.

What the features were is a record of its own, durable before the first change, and there until they are back. It is
all done under the one lock of all levers, so that "on" that comes late meets what an earlier "back" left, and the agent
that sees that its order has gone meanwhile asks for "back" once more. Who raises a flag needs no lock: "on" looks at
the flags before and after.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ktls_host import originals
from ktls_host.commands import Runner
from ktls_host.errors import KtlsError
from ktls_host.flagged import flagged
from ktls_host.nic import drivers, lever, remembered, verdict
from ktls_host.nic.interface import Nic
from ktls_host.nic.remembered import Memory
from ktls_host.nic.targets import DesiredOffload
from ktls_host.originals import Record, Restoration

LEVER = "hw"

Before = Mapping[str, Mapping[str, bool]]


def refuse_flagged(root: str) -> None:
    """Raise :class:`KtlsError` ``off_latched`` while a flag says off."""
    if flagged(root):
        raise KtlsError("off_latched", "an off flag is set on this host: no card is switched on for TLS")


def able(nics: Iterable[Nic]) -> list[Nic]:
    """Return the interfaces that can send by their card. Raises :class:`KtlsError`: why there is none."""
    found = list(nics)
    implementing = [nic for nic in found if nic.implements["tx"]]
    usable = [nic for nic in implementing if (feature := nic.feature("tx")) and (feature.on or not feature.fixed)]
    if not usable:
        reason = verdict.fixed_off(implementing[0], "tx") if implementing else verdict.no_offload(found)
        raise KtlsError(reason.code, f"{reason.message}; {reason.cure}")
    return usable


def switch_on(nics: Iterable[Nic], root: str, runner: Runner) -> bool:
    """Switch sending on and receiving off; return whether that changed anything. Call it under the lock.

    Raises :class:`KtlsError`: those of the lever, ``off_latched``.
    """
    nics = list(nics)
    refuse_flagged(root)
    _remember(nics, root)
    names = tuple(nic.name for nic in nics)
    wish = DesiredOffload(interfaces=names, tx=True, rx=False, persistent=False)
    changed = lever.present(wish, root=root, runner=runner, held=True).changed
    refuse_flagged(root)
    return changed


def recorded(root: str) -> Before | None:
    """Return the features by interface as they were before phase hw; None when they are back, or never left.

    Raises :class:`KtlsError` ``record_unreadable``.
    """
    record = originals.load(LEVER, root)
    if record is None:
        return None
    before = record.facts.get("before")
    return before if isinstance(before, dict) else {}


def put_back(before: Before, nics: Iterable[Nic], root: str, runner: Runner) -> list[str]:
    """Give the interfaces what they had; return a line for each that could not have it. Call it under the lock."""
    known = {nic.name: nic for nic in nics}
    problems = []
    for name, features in sorted(before.items()):
        if name not in known:
            continue  # one that comes back has the features that its driver gives it
        tx, rx = (features.get(drivers.FEATURES[direction]) for direction in ("tx", "rx"))
        try:
            wish = DesiredOffload(interfaces=(name,), tx=tx, rx=rx, persistent=False)
            lever.present(wish, root=root, runner=runner, held=True)
        except KtlsError as error:
            problems.append(f"{name}: {error.message}")
    return problems


def own(nics: Iterable[Nic], root: str) -> list[str]:
    """Note that features which are off now were switched off by us, by ``ktls-off`` perhaps, which keeps no record.

    So a restoration gives them back, and does not take them for somebody else's wish. Call it under the lock.

    :returns: a line for each interface whose record could not be written: off matters more.
    """
    problems = []
    for nic in nics:
        try:
            record = originals.load(remembered.lever_of(nic.name), root)
            if record is None:
                continue
            memory = Memory.parse(record.lever, record.facts).settled(nic)
            ours = frozenset(name for name in drivers.FEATURES.values() if name in memory.features)
            facts = replace(memory, touched=memory.touched | ours).as_facts()
            originals.save(replace(record, facts=facts), root)
        except KtlsError as error:
            problems.append(f"{nic.name}: {error.message}")
    return problems


def forget(root: str) -> None:
    """Drop the record of what was before. Raises :class:`KtlsError`."""
    record = originals.load(LEVER, root)
    if record is not None:
        originals.forget(Restoration(record, root=root))


def _remember(nics: Iterable[Nic], root: str) -> None:
    """Record what is there, unless it is recorded already: an order that comes again changes nothing of that."""
    before = dict(recorded(root) or {})
    memories = lever.memories(root)
    for nic in nics:
        if nic.name not in before:
            before[nic.name] = {
                name: nic.features[name].requested for name in drivers.FEATURES.values() if name in nic.features
            }
        if nic.name not in memories:
            # A card that is on already is not changed, and `ktls-off` goes by the names of these records.
            originals.save(Record(remembered.lever_of(nic.name), Memory.first(nic).as_facts()), root)
    originals.save(Record(LEVER, {"before": before}), root)


def words(before: Before | None) -> dict[str, Any]:
    """Return what was recorded, for people and programs."""
    return {name: dict(features) for name, features in (before or {}).items()}
