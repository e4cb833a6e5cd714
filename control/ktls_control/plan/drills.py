# SPDX-License-Identifier: Apache-2.0
"""Drills on record: ``drills.json`` in the fleet's directory, ``{HOST: {"at", "passed", "detail"?, ...}}``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ControlError

FILE = "drills.json"


@dataclass(frozen=True)
class Drill:
    """The last drill of a host.

    :param at: seconds since the epoch, control node.
    :param detail: what did not pass.
    """

    at: float
    passed: bool
    detail: str = ""


def load(fleet: Path) -> dict[str, Drill]:
    """Drills by host; none when nobody ever drilled. An entry that cannot be read is none.

    :param fleet: the fleet's directory, see :mod:`ktls_control.rollout.store`.
    :raises ControlError: ``bad_drills``.
    """
    path = fleet / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ControlError("bad_drills", f"{path}: {error}: move it away and drill again (ktls drill)") from error
    hosts = data.get("hosts", data) if isinstance(data, Mapping) else {}
    found = {}
    for name, entry in hosts.items():
        if isinstance(entry, Mapping) and isinstance(entry.get("at"), int | float):
            found[str(name)] = Drill(float(entry["at"]), entry.get("passed") is True, str(entry.get("detail") or ""))
    return found
