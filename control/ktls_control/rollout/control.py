# SPDX-License-Identifier: Apache-2.0
"""What operators ask of a run under way: files that the engine looks at again and again. Abort is never taken back."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ControlError
from ..files import write


@dataclass(frozen=True)
class Asked:
    """One request: who, and why."""

    by: str
    why: str = ""


@dataclass(frozen=True)
class Controls:
    """Everything that is asked for now.

    :param promote: by number of the wave; 0 means whichever wave waits.
    """

    abort: Asked | None = None
    off: Asked | None = None
    pause: Asked | None = None
    promote: Mapping[int, Asked] = field(default_factory=dict)

    @property
    def stop(self) -> Asked | None:
        """What ends the run whatever else is asked for."""
        return self.off or self.abort


def operator(environment: Mapping[str, str] | None = None) -> str:
    """Who sits here: the user behind sudo if there is one, and the machine."""
    environment = os.environ if environment is None else environment
    try:
        user = environment.get("KTLS_OPERATOR") or environment.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return user if "@" in user else f"{user}@{socket.gethostname()}"


def launched(variables: Mapping[str, Any]) -> None:
    """Where AWX or Automation Controller runs the playbook, the operator is who launched the job: it says so."""
    user = variables.get("awx_user_name") or variables.get("tower_user_name")
    if user and not os.environ.get("KTLS_OPERATOR"):
        os.environ["KTLS_OPERATOR"] = f"{user}@awx"


def look(directory: Path) -> Controls:
    """What is asked for now. A file that cannot be read still asks."""
    found: dict[str, Asked] = {}
    try:
        names = os.listdir(directory)
    except OSError:
        names = []
    for name in names:
        if name in ("abort", "off", "pause") or name.startswith("promote-"):
            found[name] = _asked(directory / name)
    promote = {
        int(name.removeprefix("promote-")): asked
        for name, asked in found.items()
        if name.startswith("promote-") and name.removeprefix("promote-").isdigit()
    }
    return Controls(found.get("abort"), found.get("off"), found.get("pause"), promote)


def _asked(path: Path) -> Asked:
    try:
        said = json.loads(path.read_text())
        return Asked(str(said.get("by") or "somebody"), str(said.get("why") or ""))
    except (OSError, ValueError, AttributeError):
        return Asked("somebody")


def ask(directory: Path, verb: str, *, by: str, why: str = "", wave: int = 0) -> None:
    """Ask for ``abort``, ``off``, ``pause`` or ``promote``; ``resume`` takes a pause away.

    :raises ControlError: ``control_failed``.
    """
    try:
        if verb == "resume":
            (directory / "pause").unlink(missing_ok=True)
            return
        name = f"promote-{wave}" if verb == "promote" else verb
        write(directory / name, json.dumps({"by": by, "why": why, "at": round(time.time(), 3)}) + "\n")
    except OSError as error:
        raise ControlError(
            "control_failed", f"{verb}: {directory} cannot be written ({error.strerror}); `ktls off` needs no file"
        ) from error


def withdraw(directory: Path, name: str) -> None:
    """Take away a request that was carried out (never ``abort`` or ``off``)."""
    (directory / name).unlink(missing_ok=True)
