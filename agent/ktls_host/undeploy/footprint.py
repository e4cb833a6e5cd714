# SPDX-License-Identifier: Apache-2.0
"""What one component leaves on a host, as data: whoever puts something there adds it to its footprint."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Footprint:
    """Absolute paths and names.

    ``units`` are in the order in which they are started; ``quiet`` are those of them that end first, so that nothing
    writes to the audit trail while it is copied. ``files`` are ours by their name, ``guests`` only where the record of
    the deploy says that we wrote them (a key may be the operator's own). ``links`` are pairs: where, and where it
    leads as long as it is ours. ``state`` are files and trees that only our programs write: they go whole; ``*``
    stands for anything in a name. ``directories`` are ours by name; they go when nothing of somebody else is in them.
    ``users`` and ``groups`` are those that we make where they are missing.
    """

    name: str
    units: tuple[str, ...] = ()
    quiet: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    guests: tuple[str, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    state: tuple[str, ...] = ()
    directories: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()


def merged(parts: tuple[Footprint, ...]) -> Footprint:
    """Return all of them as one, nothing twice, in their order. Pure."""

    def joined(name: str) -> tuple[object, ...]:
        return tuple(dict.fromkeys(entry for part in parts for entry in getattr(part, name)))

    fields = ("units", "quiet", "files", "guests", "links", "state", "directories", "users", "groups")
    return Footprint("all", **{name: joined(name) for name in fields})  # type: ignore[arg-type]
