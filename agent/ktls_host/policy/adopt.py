# SPDX-License-Identifier: Apache-2.0
"""The records of this lever: where they differ from the plain ones of :mod:`ktls_host.originals`."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from dataclasses import replace

from .. import files, originals, textfile
from ..errors import KtlsError
from ..files import FileChange, FileSpec
from ..originals import Adoption, FileRecord, Original, Restoration
from .places import OWN_DIRECTORY, has_our_part, is_ours
from .targets import Target


def plan(lever: str, backend: str, specs: tuple[FileSpec, ...], root: str = "/") -> Adoption:
    """Plan as :func:`ktls_host.originals.plan` does, and never take what is ours for the original.

    Raises :class:`KtlsError` ``record_missing`` and those of :func:`ktls_host.originals.plan`.
    """
    adoption = originals.plan(lever, specs, {}, root)
    if not adoption.changes:
        return adoption
    known = adoption.known
    found = []
    for record in adoption.record.files:
        path, content = record.original.path, record.original.content
        original, ours = record.original, record.ours
        if known is None or known.of(path) is None:
            if is_ours(content):
                original, ours = Original(path, None), (*ours, hashlib.sha256(content or b"").hexdigest())
            elif has_our_part(backend, content):
                raise missing_record(path, lever)
        found.append(replace(record, original=original, ours=ours, made=_made(record, lever, root)))
    return replace(adoption, record=replace(adoption.record, files=tuple(found)))


def undo(adoption: Adoption) -> None:
    """Take back what :func:`ktls_host.originals.commit` did, to what was there before it, record included.

    Raises :class:`KtlsError` ``write_failed``.
    """
    root = adoption.root
    if adoption.known is None:
        restoration = originals.plan_restore(adoption.record.lever, root)
        originals.restore_files(restoration)
        originals.forget(restoration)
        return
    for change in reversed(adoption.changes):
        spec = FileSpec.absent(change.spec.path)
        if change.before is not None:
            mode, _, owner = change.before_attributes.partition(" ")
            user, _, group = owner.partition(":")
            spec = FileSpec(change.spec.path, change.before, int(mode, 8), user, group)
        files.apply(files.plan_files([spec], root))
    originals.save(adoption.known, root)


def orphans(
    paths: tuple[str, ...], target: Target, keep: bool, root: str = "/"
) -> tuple[tuple[FileChange, ...], frozenset[str]]:
    """Return how to remove files that are wholly ours, for a target whose record is lost, and which to leave alone.

    What an edited drop-in points to stays with it. Raises :class:`KtlsError` ``record_missing`` when lines of ours
    stand in a file of somebody else, unless ``keep`` says that this may stay.
    """
    wanted: list[str] = []
    kept: set[str] = set()
    for path in paths:
        content = _content(path, root)
        if is_ours(content):
            wanted.append(path)
        elif target.unit is not None:
            if content is not None and _names_other(content, path, paths):
                kept.update(paths)
        elif has_our_part(target.backend, content):
            if not keep:
                raise missing_record(path, target.lever)
            kept.add(path)
    specs = [FileSpec.absent(path) for path in wanted if path not in kept]
    return tuple(files.plan_files(specs, root)), frozenset(kept)


def sweep(target: Target, paths: Iterable[str], root: str = "/") -> None:
    """Remove what a killed run left beside the record, the files that it names, and ``paths``."""
    record = originals.load(target.lever, root)
    recorded = [found.original.path for found in record.files] if record else []
    for path in (originals.record_path(target.lever), *recorded, *paths):
        files.sweep(textfile.under(root, path))


def _content(path: str, root: str) -> bytes | None:
    """A link, or what else is not a file that we would have written, holds nothing of ours."""
    try:
        return originals.read(path, root).content
    except KtlsError:
        return None


def _names_other(content: bytes, path: str, paths: tuple[str, ...]) -> bool:
    return any(other.replace("\\", "\\\\").encode() in content for other in paths if other != path)


def without(restoration: Restoration, kept: frozenset[str]) -> Restoration:
    """Return the same with the files at ``kept`` left as they are."""
    pairs = [
        (record, diff) for record, diff in zip(restoration.back, restoration.diffs) if record.original.path not in kept
    ]
    return replace(restoration, back=tuple(pair[0] for pair in pairs), diffs=tuple(pair[1] for pair in pairs))


def only(restoration: Restoration, paths: frozenset[str]) -> Restoration:
    """Return the part of it that is about ``paths``."""
    return without(restoration, frozenset(record.original.path for record in restoration.back) - paths)


def missing_record(path: str, lever: str) -> KtlsError:
    """Return the refusal for a file that holds lines of ours while nothing tells what it was like before."""
    message = (
        f"{path} has lines of ktls-fleet in it, but the record of lever {lever} is gone, so what was there before is "
        f"not known; take the lines with 'ktls-fleet' and what they enclose or announce out by hand, then repeat"
    )
    return KtlsError("record_missing", message)


def _made(record: FileRecord, lever: str, root: str) -> tuple[str, ...]:
    """A directory that another of our levers made is ours to remove, too: the last to leave does it."""
    parents = set(_parents(record.original.path))
    made = set(record.made)
    for other in originals.levers(root):
        if other == lever or not other.startswith("policy:"):
            continue
        others = originals.load(other, root)
        for found in others.files if others else ():
            made.update(parents.intersection(found.made))
    return tuple(sorted(made, key=len))


def _parents(path: str) -> list[str]:
    found = []
    parent = os.path.dirname(path)
    while parent not in ("/", ""):
        found.append(parent)
        parent = os.path.dirname(parent)
    return found


def remove_own_directories(root: str = "/") -> None:
    """Remove the directories of this lever that are empty, for a record that cannot tell who made them."""
    path = OWN_DIRECTORY
    for directory in (path, os.path.dirname(path)):
        with contextlib.suppress(OSError):
            os.rmdir(textfile.under(root, directory))
