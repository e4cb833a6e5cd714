# SPDX-License-Identifier: Apache-2.0
"""The rollouts of a fleet as off needs them: which is under way, who is in a wave; and how one is told to end.

Reads journals as they are on the disk: no lock, and a last line that is half written is left out.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import ControlError
from ..rollout import control, store
from ..rollout.state import RunState, fold

_TAIL = 1 << 20  # bytes: more than the longest event


class Run(store.Run):
    """A run whose journal may be long, or unreadable: only what is asked for is read, and nothing raises."""

    def under_way(self) -> bool:
        """Its journal has no end: it runs, or was interrupted and can be resumed."""
        try:
            with open(self.journal, "rb") as stream:
                size = stream.seek(0, os.SEEK_END)
                stream.seek(max(0, size - _TAIL))
                whole = stream.read().rpartition(b"\n")[0]
            last = json.loads(whole.rpartition(b"\n")[2])
        except (OSError, ValueError):
            # Nothing that can be read says that it has ended: to tell it costs nothing.
            return True
        return not (isinstance(last, dict) and last.get("event") == "run_ended")

    def waves(self) -> dict[int, list[str]]:
        """Hosts by wave, as the run began; empty when that cannot be read."""
        try:
            first = next(_events(self.journal))
            return {int(wave["number"]): [str(host) for host in wave["hosts"]] for wave in first["waves"]}
        except (OSError, ValueError, KeyError, TypeError, StopIteration):
            return {}

    def state(self) -> RunState | None:
        """All of it; None when the journal cannot be read."""
        try:
            return fold(_events(self.journal))
        except (OSError, ValueError, KeyError, TypeError, StopIteration):
            return None


def runs(inventory: str, group: str) -> list[Run]:
    """Runs of the fleet, the one that wrote last first."""
    written: list[tuple[float, Run]] = []
    try:
        for directory in (store.fleet(inventory, group).directory / "runs").iterdir():
            run = Run(directory)
            with contextlib.suppress(OSError):
                written.append((run.journal.stat().st_mtime, run))
    except OSError:
        return []
    return [run for _at, run in sorted(written, key=lambda each: each[0], reverse=True)]


def _events(journal: Path) -> Iterator[dict[str, Any]]:
    with open(journal, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            if line.endswith("\n"):
                yield json.loads(line)


def wave_hosts(known: Sequence[Run], number: int, name: str | None) -> list[str]:
    """Hosts of a wave, of the newest run or of the one that is named.

    :raises ControlError: ``no_run`` or ``no_wave``.
    """
    chosen = next((run for run in known if name in (None, run.name)), None)
    if chosen is None:
        what = f"run {name}" if name else "run"
        raise ControlError("no_run", f"no {what} of this fleet on this control node; name hosts with --host or --limit")
    waves = chosen.waves()
    if number not in waves:
        there = f"it has {', '.join(map(str, waves))}" if waves else "its journal cannot be read"
        raise ControlError("no_wave", f"run {chosen.name} has no wave {number}: {there}")
    return waves[number]


def stop(run: Run, by: str, why: str) -> None:
    """Ask the rollout to end: the file that its engine obeys. Waits for nobody.

    :raises ControlError: ``control_failed``.
    """
    control.ask(run.control, "off", by=by, why=why)
