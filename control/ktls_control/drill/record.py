# SPDX-License-Identifier: Apache-2.0
"""``drills.json`` of a fleet: the last drill of each host, which ``ktls plan`` asks for.

``{"hosts": {HOST: {"at", "passed", "detail", "refused", ...}}, "hw": {HOST: {...}}}``; ``hw``: drills of that phase,
which say nothing for or against the others. ``at`` is the control node's time, so that no host's
clock makes a drill fresh. A drill that was refused (the host is in use) is not kept: the last one stays.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ControlError

FILE = "drills.json"
_KEPT = ("phase", "means", "card", "step", "code", "durations", "keyupdate", "host", "left", "compared", "differences")
_MOST_DIFFERENCES = 20


def entry(drill: Mapping[str, Any] | None, message: str, at: float) -> dict[str, Any]:
    """What is kept of a host.

    :param drill: what ``ktls_drill`` returned, None when the host did not answer; then ``message`` says why.
    :param at: control node's time, seconds since the epoch.
    """
    if drill is None:
        return {"at": at, "passed": False, "detail": message, "code": "cut_off"}
    host = drill.get("host") or {}
    shown = {key: drill.get(key) for key in _KEPT}
    shown["differences"] = list(drill.get("differences") or ())[:_MOST_DIFFERENCES]
    detail = "" if drill.get("ok") else f"{drill.get('step')}: {drill.get('why')}"
    return {"at": at, "passed": drill.get("ok") is True, "detail": detail, "kernel": host.get("kernel"), **shown}


def keep(fleet: Path, host: str, found: Mapping[str, Any]) -> None:
    """Put one host's drill into the file of the fleet, whole or not at all; several may do so at once.

    :raises ControlError: ``no_state_dir`` or ``bad_drills``.
    """
    try:
        fleet.mkdir(mode=0o750, parents=True, exist_ok=True)
        with open(fleet / f".{FILE}.lock", "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            drills = {"hosts": load(fleet), "hw": load(fleet, "hw")}
            drills["hw" if found.get("phase") == "hw" else "hosts"][host] = dict(found)
            _replace(fleet / FILE, json.dumps({"schema": 1, **drills}, sort_keys=True) + "\n")
    except OSError as error:
        raise ControlError(
            "no_state_dir",
            f"{fleet}: {error.strerror}: make it writable, or name another place in KTLS_STATE_DIR",
        ) from error


def load(fleet: Path, phase: str = "tx") -> dict[str, dict[str, Any]]:
    """Drills by host; none when nobody ever drilled.

    :param phase: ``hw`` has its own.
    :raises ControlError: ``bad_drills``.
    """
    path = fleet / FILE
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        drills = {str(name): dict(found) for name, found in data["hosts"].items()}
        return drills if phase != "hw" else {str(name): dict(found) for name, found in data.get("hw", {}).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ControlError("bad_drills", f"{path}: {error}: move it away and drill again (ktls drill)") from error


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
