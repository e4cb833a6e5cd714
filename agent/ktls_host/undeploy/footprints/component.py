# SPDX-License-Identifier: Apache-2.0
"""What every component of the release leaves, from the release's own tables: one that is new is covered by itself."""

from __future__ import annotations

from ... import release
from ..footprint import Footprint


def of(component: str, *, without: tuple[str, ...] = ()) -> Footprint:
    """Return its units, configuration and commands, and the directories that systemd makes by its name.

    ``without`` are units that are a component of their own here. Pure.
    """
    units = tuple(unit for unit in release.units(component) if unit not in without)
    return Footprint(
        component,
        units=units,
        files=(f"/etc/ktls/{component}.json", *(f"/etc/systemd/system/{unit}" for unit in units)),
        links=release.links(component),
        state=(f"/run/ktls-{component}", f"/var/lib/ktls-{component}"),
    )
