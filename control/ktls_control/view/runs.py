# SPDX-License-Identifier: Apache-2.0
"""Finds the run that an operator means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from ..errors import ControlError
from ..rollout import store

JOURNAL = "journal.jsonl"


def find(
    run: str | None,
    inventory: str | None = None,
    group: str = "ktls_hosts",
    environment: Mapping[str, str] | None = None,
) -> Path:
    """The directory of a run.

    :param run: its name, its directory, or None (or ``latest``) for the newest run of the fleet.
    :param inventory: whose fleet is meant. When nothing was ever rolled out on it and there is just one other fleet,
        that one is.
    :raises ControlError: ``no_run``.
    """
    if run and "/" in run:
        if not (Path(run) / JOURNAL).is_file():
            raise ControlError("no_run", f"{run}: no run is kept there: it has no {JOURNAL}")
        return Path(run)
    place = store.state_dir(environment)
    fleets = {path.name: path for path in _directories(place) if (path / "runs").is_dir()}
    name = store.fleet_name(inventory, group) if inventory else None
    mine = [fleets[name]] if name in fleets else list(fleets.values())
    if run and run != "latest":
        found = [path for fleet in mine for path in _runs(fleet) if path.name == run]
        if len(found) != 1:
            why = "several fleets have one of that name: give its directory" if found else "`ktls history` lists them"
            raise ControlError("no_run", f"no run {run!r} in {place}: {why}")
        return found[0]
    if len(mine) > 1:
        raise ControlError(
            "no_run", f"{place} has the runs of {len(mine)} fleets, none of this inventory: name one with -i or --run"
        )
    runs = _runs(mine[0]) if mine else []
    if not runs:
        raise ControlError("no_run", f"no run is kept in {place}: start one with `ktls plan` and `ktls apply`")
    return max(runs, key=_begun)


def _directories(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if path.is_dir())
    except OSError:
        return []


def _runs(fleet: Path) -> list[Path]:
    return [path for path in _directories(fleet / "runs") if (path / JOURNAL).is_file()]


def _begun(run: Path) -> tuple[float, str]:
    """When its first line was written: a resumed old run is not the newest one. Names break ties."""
    try:
        with open(run / JOURNAL, "rb") as file:
            line = file.readline(1_000_000)
        return float(json.loads(line)["at"]), run.name
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0, run.name
