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
          evidence/      wave-N-HOST.json: the series that the gate was judged by
          report.html
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path


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
