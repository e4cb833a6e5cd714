# SPDX-License-Identifier: Apache-2.0
"""Finds the run that an operator means."""

from __future__ import annotations

from pathlib import Path

from ..errors import ControlError
from ..rollout import store


def find(run: str | None, inventory: str | None = None, group: str = "ktls_hosts") -> store.Run:
    """A run by its name or directory, or the newest one.

    :param run: None or ``latest``: the newest run of the fleet of ``inventory``. When nothing was ever rolled out on
        that and there is just one other fleet, that one is meant.
    :raises ControlError: ``no_run``.
    """
    if run and "/" in run:
        found = store.Run(Path(run).resolve())
        if not found.journal.is_file():
            raise ControlError("no_run", f"{run}: no run is kept there: it has no {found.journal.name}")
        return found
    if run and run != "latest":
        return store.find(run)
    wanted = store.fleet(inventory, group) if inventory else None
    if wanted and wanted.runs():
        return wanted.newest()
    fleets = [fleet for fleet in store.fleets() if fleet.runs()]
    if len(fleets) != 1:
        none = "no run is kept there: start with `ktls plan` and `ktls apply PLAN`"
        several = f"{len(fleets)} fleets have runs there, none is of this inventory: name one with -i or --run"
        raise ControlError("no_run", f"{store.state_dir()}: {several if fleets else none}")
    return fleets[0].newest()
