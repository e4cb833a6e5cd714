# SPDX-License-Identifier: Apache-2.0
"""Take the ``offload`` lever back: features and rule files as they were before it first changed them.

Only what the lever requested, or what changed with it, goes back. What somebody else changed meanwhile stays and is
named.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass

from .. import originals
from ..commands import Runner
from ..errors import KtlsError
from ..steps import Step
from . import lever, outcome, remembered, udev_rule
from . import probe as nic_probe
from .interface import Nic, by_name, offloading
from .outcome import Outcome
from .remembered import Memory
from .targets import DesiredOffload


@dataclass(frozen=True)
class PlanBack:
    """``nic`` is None when the interface is gone. ``features`` is what to request; ``left`` stays as it is now."""

    interface: str
    nic: Nic | None
    memory: Memory
    features: dict[str, bool]
    left: tuple[dict[str, str], ...]
    restoration: originals.Restoration


def absent(
    desired: DesiredOffload,
    *,
    keep_edited: bool = False,
    check: bool = False,
    root: str = "/",
    runner: Runner | None = None,
) -> Outcome:
    """Put back what was recorded, for the interfaces that ``desired`` names, or for all when it names none.

    An interface without a record was not changed, and is left alone. Raises :class:`KtlsError`:
    ``edited_meanwhile``, ``record_unreadable``, ``ethtool_missing``, ``offload_not_restored``, ``levers_busy`` and
    those of :func:`ktls_host.originals.restore_files`.
    """
    runner = runner or Runner()
    with contextlib.nullcontext() if check else originals.lock(root):
        memories = lever.memories(root)
        nics = nic_probe.probe(root, runner, also=(*memories, *(desired.interfaces or ())))
        back = plan(select(desired, nics, memories), by_name(nics), memories, root, keep_edited=keep_edited)
        steps, diff = steps_of(back), diff_of(back)
        after = {found.interface: found.nic for found in back if found.nic}
        changed = [entry for found in back for entry in _predicted(found)]
        if not check:
            after = apply(back, runner)
            changed = [entry for found in back for entry in _read_back(found, after)]
    shown = tuple(nic.as_dict() for _, nic in sorted(after.items()))
    return Outcome(steps, diff, shown, tuple(changed), tuple(entry for found in back for entry in found.left))


def select(desired: DesiredOffload, nics: Iterable[Nic], memories: dict[str, Memory]) -> tuple[str, ...]:
    """Return the remembered interfaces that ``desired`` is about. A bond stands for its slaves. Pure."""
    known = by_name(nics)
    if desired.interfaces is not None:
        names = {name for one in desired.interfaces for name in (one, *_lower_names(one, known))}
    elif desired.driver is not None:
        names = {name for name, memory in memories.items() if desired.driver in _drivers(name, memory, known)}
    elif desired.default_route:
        carriers = [nic.name for nic in known.values() if nic.carries_default_route]
        names = {name for one in carriers for name in (one, *_lower_names(one, known))}
    else:
        names = set(memories)
    return tuple(sorted(names & memories.keys()))


def plan(
    names: Iterable[str],
    nics: dict[str, Nic],
    memories: dict[str, Memory],
    root: str = "/",
    *,
    keep_edited: bool = False,
) -> tuple[PlanBack, ...]:
    """Return how to put each interface back; only reads.

    Raises :class:`KtlsError`: ``edited_meanwhile``, ``ethtool_missing``, those of
    :func:`ktls_host.originals.plan_restore`.
    """
    back = []
    for name in names:
        restoration = originals.plan_restore(remembered.lever_of(name), root, keep_edited=keep_edited)
        restoration.refuse_edited()
        nic, memory = nics.get(name), memories[name]
        if nic is not None and nic.ethtool == "missing":
            message = f"there is no program ethtool, so the features of {name} cannot be put back; install it, repeat"
            raise KtlsError("ethtool_missing", message)
        same = nic is not None and nic.driver == memory.driver
        features = memory.to_restore(nic) if nic and same else {}
        left = (*_left_features(name, nic, memory), *_left_files(name, root, restoration))
        back.append(PlanBack(name, nic, memory, features, left, restoration))
    return tuple(back)


def steps_of(back: Iterable[PlanBack]) -> tuple[Step, ...]:
    """Return the steps in the order of :func:`apply`: the rules first, so that none sets a feature again."""
    found, steps = tuple(back), []
    for file in (file for one in found for file in one.restoration.back):
        word = "remove" if file.original.content is None else "restore"
        steps.append(Step("restore_file", f"{word} {file.original.path}"))
    if steps:
        steps.append(Step("reload_udev", "udevadm control --reload", argv=("udevadm", "control", "--reload")))
    for one in found:
        if one.features:
            argv = outcome.features_argv(one.interface, one.features)
            steps.append(Step("restore_features", " ".join(argv), argv=argv))
    return tuple(steps)


def diff_of(back: Iterable[PlanBack]) -> tuple[dict[str, str], ...]:
    """Return the features and files that go back, before and after."""
    shown: list[dict[str, str]] = []
    for found in back:
        shown.extend(found.restoration.diffs)
        if found.nic and found.features:
            before = {name: found.nic.features[name].words for name in found.features}
            after = {name: remembered.recorded_words(found.memory.features[name]) for name in found.features}
            shown.append(outcome.feature_diff(found.interface, before, after))
    return tuple(shown)


def apply(back: Iterable[PlanBack], runner: Runner) -> dict[str, Nic]:
    """Put everything back, then drop the records; may be called again after any interruption.

    Returns the interfaces as they are afterwards. Raises :class:`KtlsError`: see :func:`absent`.
    """
    found = tuple(back)
    for one in found:
        originals.restore_files(one.restoration)
    if any(one.restoration.back for one in found):
        with contextlib.suppress(KtlsError):  # udevd finds removed files by itself; without udevd there is no rule
            udev_rule.reload(runner)
    after = {}
    for one in found:
        if one.nic is None:
            continue
        nic = one.nic
        if one.features:
            result = runner.run(outcome.features_argv(nic.name, one.features))
            nic = nic_probe.ask(nic, runner)
            wrong = [name for name, on in one.features.items() if not _requested(nic, name, on)]
            if wrong:
                message = (
                    f"ethtool -K {nic.name} did not put back {', '.join(wrong)} ({result.reason}); the record is "
                    f"kept: see the kernel log, then repeat"
                )
                raise KtlsError("offload_not_restored", message)
        after[nic.name] = nic
    for one in found:
        originals.forget(one.restoration)
    return after


def _lower_names(name: str, nics: dict[str, Nic]) -> tuple[str, ...]:
    return tuple(lower.name for lower in offloading(nics[name], nics)) if name in nics else ()


def _drivers(name: str, memory: Memory, nics: dict[str, Nic]) -> set[str | None]:
    return {memory.driver, nics[name].driver if name in nics else None}


def _left_features(name: str, nic: Nic | None, memory: Memory) -> tuple[dict[str, str], ...]:
    """Return what somebody else changed, and what cannot be put back because it is gone or another card now."""
    if nic is None:
        why = "there is no such interface; one that comes back has the features that its driver gives it"
        return ({"what": name, "now": "gone", "recorded": f"driver {memory.driver}", "why": why},)
    if nic.driver != memory.driver:
        why = f"the interface had driver {memory.driver} when its features were recorded"
        return ({"what": name, "now": f"driver {nic.driver}", "recorded": f"driver {memory.driver}", "why": why},)
    return tuple(
        {
            "what": f"{name} {feature}",
            "now": nic.features[feature].words,
            "recorded": remembered.recorded_words(memory.features[feature]),
            "why": "changed by somebody else meanwhile",
        }
        for feature in memory.left_alone(nic)
    )


def _left_files(name: str, root: str, kept: originals.Restoration) -> tuple[dict[str, str], ...]:
    strict = originals.plan_restore(remembered.lever_of(name), root)
    return tuple(
        {"what": path, "now": "edited", "recorded": "written by ktls-fleet", "why": "edited by somebody else meanwhile"}
        for path in strict.edited
        if path not in kept.edited
    )


def _predicted(found: PlanBack) -> list[dict[str, object]]:
    if found.nic is None:
        return []
    words = {name: remembered.recorded_words(found.memory.features[name]) for name in found.features}
    return [outcome.change(found.nic, name, after, asked=True) for name, after in sorted(words.items())]


def _read_back(found: PlanBack, after: dict[str, Nic]) -> list[dict[str, object]]:
    if found.nic is None:
        return []
    return list(outcome.changes_of(found.nic, after[found.interface], found.features))


def _requested(nic: Nic, name: str, on: bool) -> bool:
    return name not in nic.features or nic.features[name].requested == on
