# SPDX-License-Identifier: Apache-2.0
"""Where runs are kept on the control node.

::

    $KTLS_STATE_DIR, else $XDG_STATE_HOME/ktls, else ~/.local/state/ktls
      FLEET/
        epoch            highest epoch that a run of the fleet has used
        lock             flock(2) of the run under way, and who holds it (JSON)
        drills.json      last drill of each host
        runs/RUN/
          plan.yml       the plan, as applied
          journal.jsonl  see .events
          control/       what operators asked for: abort, pause, promote-N (files)
          hosts.json     how the hosts of the run are reached outside of Ansible
          answers/       wave-N-ATTEMPT-HOST.order.json, ...evidence.json: what the hosts answered
          evidence/      wave-N-HOST.json: the series that the gate was judged by
          report.html
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ControlError


def state_dir(environment: Mapping[str, str] | None = None) -> Path:
    """The directory of all fleets; not made here."""
    environment = os.environ if environment is None else environment
    if environment.get("KTLS_STATE_DIR"):
        return Path(environment["KTLS_STATE_DIR"])
    base = environment.get("XDG_STATE_HOME") or str(Path(environment.get("HOME", "~")).expanduser() / ".local/state")
    return Path(base) / "ktls"


def fleet_name(inventory: str, group: str) -> str:
    """Name of a fleet: the group, and a hash of where the inventory is (a limit does not make another fleet)."""
    place = inventory if "," in inventory else str(Path(inventory).resolve())
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '-', group)}-{hashlib.sha256(place.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Fleet:
    """One fleet's directory; not made here."""

    directory: Path

    @property
    def name(self) -> str:
        """Of the fleet."""
        return self.directory.name

    @property
    def lock(self) -> Path:
        """Held by the run under way."""
        return self.directory / "lock"

    @property
    def epoch(self) -> Path:
        """Highest epoch that was used."""
        return self.directory / "epoch"

    def runs(self) -> list[Run]:
        """Every run with a journal, the one that began first first."""
        try:
            found = [Run(path) for path in (self.directory / "runs").iterdir() if (path / "journal.jsonl").is_file()]
        except OSError:
            return []
        return sorted(found, key=lambda run: (run.began, run.name))

    def newest(self) -> Run:
        """:raises ControlError: ``no_run``."""
        runs = self.runs()
        if not runs:
            raise ControlError(
                "no_run", f"{self.name}: nothing was ever rolled out: start with `ktls plan` and `ktls apply PLAN`"
            )
        return runs[-1]

    def make(self, words: str, now: float) -> Run:
        """A directory for a new run; its name sorts by time.

        :raises ControlError: ``no_state_dir``.
        """
        stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
        for number in range(1, 1000):
            name = f"{stamp}-{words}" + (f"-{number}" if number > 1 else "")
            run = Run(self.directory / "runs" / name)
            try:
                run.directory.mkdir(parents=True, mode=0o750)
            except FileExistsError:
                continue
            except OSError as error:
                raise ControlError(
                    "no_state_dir",
                    f"{run.directory}: {error.strerror}: make it writable, or name another place in KTLS_STATE_DIR",
                ) from error
            for part in (run.control, run.answers, run.evidence):
                part.mkdir(mode=0o750)
            return run
        raise ControlError("no_state_dir", f"{self.directory}: a thousand runs began within one second")


@dataclass(frozen=True)
class Run:
    """One run's directory."""

    directory: Path

    @property
    def name(self) -> str:
        """Of the run, unique in its fleet."""
        return self.directory.name

    @property
    def fleet(self) -> Fleet:
        """Whose run it is."""
        return Fleet(self.directory.parent.parent)

    @property
    def plan(self) -> Path:
        """The plan, as applied."""
        return self.directory / "plan.yml"

    @property
    def journal(self) -> Path:
        """See :mod:`.journal`."""
        return self.directory / "journal.jsonl"

    @property
    def control(self) -> Path:
        """See :mod:`.control`."""
        return self.directory / "control"

    @property
    def hosts(self) -> Path:
        """How its hosts are reached."""
        return self.directory / "hosts.json"

    @property
    def opened(self) -> Path:
        """Which wave is open, for the tasks of hosts; see :mod:`.answers`."""
        return self.answers / "open.json"

    @property
    def answers(self) -> Path:
        """What hosts answered."""
        return self.directory / "answers"

    @property
    def evidence(self) -> Path:
        """What the gate was judged by."""
        return self.directory / "evidence"

    @property
    def began(self) -> float:
        """Time of its first event; 0 when that cannot be read."""
        try:
            with open(self.journal, "rb") as file:
                return float(json.loads(file.readline(16_000_000))["at"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0


def fleet(inventory: str, group: str) -> Fleet:
    """The fleet of a group of an inventory."""
    return Fleet(state_dir() / fleet_name(inventory, group))


def find(name: str) -> Run:
    """A run by its name, in whichever fleet it is.

    :raises ControlError: ``no_run``.
    """
    found = [run for place in fleets() for run in place.runs() if run.name == name]
    if len(found) != 1:
        raise ControlError("no_run", f"there is no run {name!r} in {state_dir()}: `ktls history` lists them")
    return found[0]


def fleets() -> list[Fleet]:
    """Every fleet that has runs."""
    try:
        return [Fleet(path) for path in sorted(state_dir().iterdir()) if (path / "runs").is_dir()]
    except OSError:
        return []
