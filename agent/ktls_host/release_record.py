# SPDX-License-Identifier: Apache-2.0
"""What a host was like before the first deploy, so that undeploy takes away what we made and nothing else.

One record in the form of :mod:`ktls_host.originals`: each file that a deploy writes, as it was before, with the hashes
of all that we put there since; and which of our users and groups were there already. It is durable before the first
change, and goes with the release. Unlike a lever's, it never refuses: a deploy sets its own files right.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

from . import originals
from .files import FileSpec
from .originals import FileRecord, Original, Record

NAME = originals.RELEASE
PATH = originals.record_path(NAME)
CURRENT = "/usr/local/lib/ktls/current"


class Accounts(Protocol):
    """Which users and groups a host has."""

    def has_user(self, name: str) -> bool:
        """Return whether the user exists."""

    def has_group(self, name: str) -> bool:
        """Return whether the group exists."""


def adopt(specs: Iterable[FileSpec], root: str = "/", accounts: Accounts | None = None) -> None:
    """Record what ``specs`` are about to change, durable when this returns; known files keep their first state.

    A host that was deployed before there was this record says nothing of before: what is at our places then is ours.
    Raises :class:`KtlsError`: ``record_unreadable``, ``write_failed`` and the refusals of :func:`originals.read`.
    """
    known = originals.load(NAME, root)
    late = known is None and os.path.lexists(_under(root, CURRENT))
    record = known or Record(NAME, _facts(late, accounts, root))
    for spec in specs:
        record = _with(record, spec, root, late)
    if record != known:
        originals.save(record, root)


def _with(record: Record, spec: FileSpec, root: str, late: bool) -> Record:
    found = record.of(spec.path)
    if found is None:
        before = originals.read(spec.path, root)
        found = FileRecord(before, made=originals.missing_parents(spec.path, root))
        if late and before.content is not None:
            found = FileRecord(Original(spec.path, None), (originals.digest_of(before.content),))
    digest = originals.digest_of(spec.content)
    if digest not in found.ours:
        found = replace(found, ours=(*found.ours, digest))
    others = tuple(other for other in record.files if other.original.path != spec.path)
    return replace(record, files=(*others, found))


def _facts(late: bool, accounts: Accounts | None, root: str) -> dict[str, object]:
    from . import release

    if late:
        return {"late": True, "users": [], "groups": [], "made": []}
    accounts = accounts or release.System()
    users = [name for name in release.USERS if accounts.has_user(name)]
    groups = [name for name in release.GROUPS if accounts.has_group(name)]
    # What a deploy makes beside files that are recorded one by one.
    places = (release.LIB, *(link for name in release.COMPONENTS for link, _ in release.links(name)))
    made = {directory for path in places for directory in originals.missing_parents(path, root)}
    return {"late": False, "users": users, "groups": groups, "made": sorted(made)}


def forget(paths: Iterable[str], root: str = "/", accounts: Accounts | None = None) -> None:
    """Drop what was recorded of files that are gone again; the record goes when it says nothing any more.

    It stays while users of ours do: who made them must not be forgotten. Raises :class:`KtlsError`:
    ``record_unreadable``, ``write_failed``.
    """
    from . import release

    known = originals.load(NAME, root)
    if known is None:
        return
    gone = {path for path in paths if not os.path.lexists(_under(root, path))}
    record = replace(known, files=tuple(found for found in known.files if found.original.path not in gone))
    accounts = accounts or release.System()
    made = [name for name in release.USERS if name not in known.facts.get("users", ()) and accounts.has_user(name)]
    if record.files or made:
        if record != known:
            originals.save(record, root)
        return
    originals.forget(originals.Restoration(known, root=root))
    try:
        os.rmdir(_under(root, originals.DIRECTORY))
    except OSError:
        return  # the levers have records of their own


def _under(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))
