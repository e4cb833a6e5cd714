# SPDX-License-Identifier: Apache-2.0
"""TLS features of network cards: off on every interface that has them, on for phase hw, and back as they were.

It is the ``offload`` lever that does it, so the first state is in that lever's records, one file an interface. By the
names of those files ``ktls-off`` knows which interfaces were changed, without Python.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

from ktls_host import originals
from ktls_host.commands import Runner
from ktls_host.errors import KtlsError
from ktls_host.flagged import flagged
from ktls_host.nic import drivers, lever, outcome, restore, targets, tls_features
from ktls_host.nic import probe as nic_probe
from ktls_host.nic.interface import Nic
from ktls_host.nic.targets import DesiredOffload

from . import nic_on


def off(root: str = "/", runner: Runner | None = None) -> dict[str, Any]:
    """Switch the TLS features off now, and take away the rule that would switch them on with the link.

    Raises :class:`KtlsError`: ``ethtool_missing``, ``offload_not_effective``, ``not_permitted``.
    """
    runner = runner or Runner()
    names = tuple(nic.name for nic in _about(root, runner))
    notes: list[str] = []
    changed = False
    if names:
        try:
            changed = lever.present(_wish(names), root=root, runner=runner).changed
        except KtlsError as error:
            # A record that cannot be written, a rule that somebody edited: no reason to leave a feature on.
            changed = _features_only(root, runner)
            notes.append(error.message)
    _forget_hw(root, notes)
    return {"changed": changed, "interfaces": _shown(_about(root, runner), root) if names else {}, "notes": notes}


def on(root: str = "/", runner: Runner | None = None) -> dict[str, Any]:
    """Let every card that can encrypt TLS do so, for sending, and say what was before.

    Raises :class:`KtlsError`: those of :func:`.nic_on.able` and :func:`.nic_on.switch_on`. Then nothing is on that was
    not before.
    """
    runner = runner or Runner()
    with originals.lock(root):
        nics = nic_on.able(_about(root, runner))
        try:
            changed = nic_on.switch_on(nics, root, runner)
        except KtlsError:
            _back(root, runner)
            raise
        before = nic_on.words(nic_on.recorded(root))
    # Only those: on a slow host each start of ethtool counts, and an order waits for this.
    after = [nic_probe.ask(nic, runner) for nic in nics]
    return {"changed": changed, "before": before, "interfaces": _shown(after, root), "notes": []}


def back(root: str = "/", runner: Runner | None = None) -> dict[str, Any]:
    """Undo :func:`on`: features as they were right before it, or off while a flag says off. No record: nothing to do.

    Raises :class:`KtlsError` as :func:`off` does.
    """
    runner = runner or Runner()
    try:
        with originals.lock(root):
            changed, notes = _back(root, runner)
    except KtlsError as error:
        # Not known what was before, or it cannot be had: off is what phase hw must not leave behind.
        done = off(root, runner)
        return {**done, "notes": [error.message, *done["notes"]]}
    return {"changed": changed, "interfaces": _shown(_about(root, runner), root), "notes": notes}


def _back(root: str, runner: Runner) -> tuple[bool, list[str]]:
    before = nic_on.recorded(root)
    if before is None:
        return False, []
    notes: list[str] = []
    if flagged(root):
        _features_only(root, runner)
        notes = nic_on.own(_about(root, runner), root)
    else:
        notes = nic_on.put_back(before, _about(root, runner), root, runner)
        if notes:
            _features_only(root, runner)
    nic_on.forget(root)
    return True, notes


def _forget_hw(root: str, notes: list[str]) -> None:
    """What is off stays off, whatever was before phase hw."""
    try:
        nic_on.forget(root)
    except KtlsError as error:
        notes.append(error.message)


def put_back(root: str = "/", runner: Runner | None = None) -> dict[str, Any]:
    """Give every interface with a record its first state back. Raises :class:`KtlsError`: those of the lever."""
    runner = runner or Runner()
    done = restore.absent(DesiredOffload(), keep_edited=True, root=root, runner=runner)
    left = [f"{entry['what']}: {entry['why']}" for entry in done.left_alone]
    _forget_hw(root, left)
    return {"changed": done.changed, "interfaces": _shown(_about(root, runner), root), "notes": left}


def status(root: str = "/", runner: Runner | None = None) -> dict[str, Any]:
    """Return the TLS features of every interface that has them, or that has a record."""
    return {"interfaces": _shown(_about(root, runner or Runner()), root)}


def _wish(names: tuple[str, ...] | None = None) -> DesiredOffload:
    return DesiredOffload(interfaces=names, tx=False, rx=False, persistent=False)


def _about(root: str, runner: Runner) -> list[Nic]:
    """Return the interfaces with a TLS feature that can be changed, and those with a record of the lever."""
    try:
        remembered = lever.memories(root)
    except KtlsError:
        remembered = {}
    found = nic_probe.probe(root, runner, also=(*remembered, *_with_features()))
    for nic in found:
        targets.refuse_unable(nic, _wish())
    return [nic for nic in found if nic.name in remembered or _changeable(nic)]


def _with_features() -> tuple[str, ...]:
    """Return what the kernel says has a TLS feature, so that virtual interfaces are asked too that have one."""
    try:
        return tls_features.switchable()
    except OSError:
        return ()


def _changeable(nic: Nic) -> dict[str, bool]:
    """Return the TLS features that can be changed, by name: whether they are on or asked for."""
    features = {name: nic.features[name] for name in drivers.FEATURES.values() if name in nic.features}
    return {name: feature.on or feature.requested for name, feature in features.items() if not feature.fixed}


def _features_only(root: str, runner: Runner) -> bool:
    changed = False
    for nic in _about(root, runner):
        wishes = {name: False for name, on in _changeable(nic).items() if on}
        if wishes:
            result = runner.run(outcome.features_argv(nic.name, wishes))
            lever.verify(nic_probe.ask(nic, runner), wishes, result)
            changed = True
    return changed


def _shown(nics: Iterable[Nic], root: str) -> dict[str, Any]:
    try:
        remembered = set(lever.memories(root))
    except KtlsError:
        remembered = set()
    shown = {}
    for nic in nics:
        words = {key: (nic.features[name].words if name in nic.features else None) for key, name in _KEYS}
        shown[nic.name] = {**words, "driver": nic.driver, "recorded": nic.name in remembered}
    return shown


_KEYS = tuple(drivers.FEATURES.items())

VERBS: dict[str, Callable[[], dict[str, Any]]] = {
    "off": off,
    "on": on,
    "back": back,
    "restore": put_back,
    "status": status,
}
