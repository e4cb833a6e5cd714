# SPDX-License-Identifier: Apache-2.0
"""``state: absent``: put back what was there before, the file that makes the others count first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from .. import files, gnutls, originals
from ..commands import Runner
from ..errors import KtlsError
from ..files import FileChange
from ..originals import Restoration
from ..steps import Step
from . import adopt, check, crypto_policies, places, services
from .places import VARIABLES
from .targets import Request, Target
from .work import Part, note_end, regenerate_step, reload_step, reload_systemd

_STILL_THERE = (
    "update-crypto-policies ran, but the file for {} still has lines of ktls-fleet; run it by hand, then repeat"
)


def plan(request: Request, targets: Sequence[Target], root: str = "/") -> tuple[Part, ...]:
    """Decide. Needs neither library nor program, so that a host can always be put back.

    Raises :class:`KtlsError`: ``edited_meanwhile``, ``record_missing``, ``record_unreadable``, and refusals of files.
    """
    return tuple(_part(request, target, root) for target in targets)


def apply(parts: Sequence[Part], runner: Runner, between: Callable[[], None], root: str = "/") -> None:
    """Carry it out; may be repeated after any interruption. ``between`` restarts services.

    It is called when no new process can get the old configuration, and those that run still find it.
    Raises :class:`KtlsError`.
    """
    for part in parts:
        adopt.sweep(part.target, _paths(part.target, root), root)
        if part.changing:
            services.note_before(part.target.lever, root)
        _restore(part, True, root)
        if part.regenerate:
            crypto_policies.regenerate(runner)
            if crypto_policies.stale(part.target.backend, None, root):
                raise KtlsError("crypto_policies_failed", _STILL_THERE.format(part.target.backend))
    if any(part.reload for part in parts):
        reload_systemd(runner)
    note_end(parts, root)
    between()
    for part in parts:
        _restore(part, False, root)
        if part.restoration is not None:
            originals.forget(part.restoration)


def effective(request: Request, targets: Sequence[Target], runner: Runner, root: str = "/") -> list[dict[str, object]]:
    """Return what the libraries make of what is there now, as far as there are libraries."""
    try:
        default = places.openssl_default(check.openssl_directory(), root)
    except KtlsError:
        default = ""
    if request.backend == "gnutls":
        state = gnutls.probe(root)
        default = "" if state.library is None else state.config_file or gnutls.DEFAULT_CONFIG
    if not default:
        return []
    found = check.effective(request.backend, default, runner, root)
    return [{**found, "unit": target.name} for target in targets]


def _part(request: Request, target: Target, root: str) -> Part:
    restoration = originals.plan_restore(target.lever, root)
    left_alone: frozenset[str] = frozenset()
    if restoration.edited:
        if not request.keep_edited:
            restoration.refuse_edited()
        left_alone = frozenset(restoration.edited)
        restoration = originals.plan_restore(target.lever, root, keep_edited=True)
    paths = _paths(target, root) if target.unit is not None or restoration.record is None else ()
    if target.unit is not None and paths[1] in left_alone:
        # What it points to must stay with it.
        left_alone |= {paths[0]}
        restoration = adopt.without(restoration, left_alone)
    orphans: tuple[FileChange, ...] = ()
    if restoration.record is None:
        orphans, kept = adopt.orphans(paths, target, request.keep_edited, root)
        left_alone |= kept
    going = {record.original.path for record in restoration.back} | {change.spec.path for change in orphans}
    visible = frozenset(going if target.unit is None else going - {paths[0]})
    reload = regenerate = False
    if target.unit is not None:
        loaded = f"{VARIABLES[target.backend]}={paths[0]}" in target.unit.environment
        reload = bool(visible) or (loaded and paths[1] not in left_alone)
    else:
        local = crypto_policies.local_file(target.backend)
        regenerate = local not in left_alone and (local in going or crypto_policies.stale(target.backend, None, root))
    steps = [_step(path, restoration) for path in sorted(visible)]
    steps += [regenerate_step()] if regenerate else []
    steps += [reload_step()] if reload else []
    return Part(
        target=target,
        steps=tuple(steps),
        diffs=(*restoration.diffs, *(change.diff() for change in orphans)),
        files=tuple(sorted(left_alone)),
        left_alone=tuple(sorted(left_alone)),
        changing=bool(visible) or reload or regenerate,
        reload=reload,
        regenerate=regenerate,
        restoration=restoration,
        orphans=orphans,
        visible=visible,
    )


def late_steps(part: Part) -> list[Step]:
    """Return the steps for what goes after the restarts."""
    paths = [record.original.path for record in (part.restoration.back if part.restoration else ())]
    paths += [change.spec.path for change in part.orphans]
    return [_step(path, part.restoration) for path in sorted(paths) if path not in part.visible]


def _restore(part: Part, first: bool, root: str) -> None:
    """Put back what makes the rest count, or afterwards that rest with the directories."""
    visible = part.visible
    if part.restoration is not None and part.restoration.record is not None:
        if first:
            originals.restore_files(replace(adopt.only(part.restoration, visible), record=None))
        else:
            originals.restore_files(adopt.without(part.restoration, visible))
    orphans = [change.spec for change in part.orphans if (change.spec.path in visible) == first]
    files.apply(files.plan_files(orphans, root))
    if part.orphans and not first:
        adopt.remove_own_directories(root)


def _paths(target: Target, root: str) -> tuple[str, ...]:
    """Where files of ours could be, the one that the others need first."""
    if target.unit is not None:
        return places.service_files(target.unit.name, target.backend)
    local = crypto_policies.local_file(target.backend)
    if target.backend == "gnutls":
        config = gnutls.probe(root).config_file or gnutls.DEFAULT_CONFIG
        return (local,) if config == crypto_policies.backend_file("gnutls") else (local, config)
    try:
        return (local, places.openssl_file(check.openssl_directory(), root))
    except KtlsError:
        return (local,)


def _step(path: str, restoration: Restoration | None) -> Step:
    record = restoration.record.of(path) if restoration is not None and restoration.record else None
    if record is None or record.original.content is None:
        return Step("remove", f"remove {path}")
    return Step("restore", f"put {path} back as it was")
