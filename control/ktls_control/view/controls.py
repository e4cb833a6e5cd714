# SPDX-License-Identifier: Apache-2.0
"""What an operator asks of a run: files that the engine obeys (see ``rollout/store.py``)."""

from __future__ import annotations

import getpass
import json
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from ..errors import ControlError
from ..files import write


def operator(environment: Mapping[str, str] | None = None) -> str:
    """Who sits here: the user behind sudo if there is one, and the machine."""
    environment = os.environ if environment is None else environment
    try:
        user = environment.get("SUDO_USER") or getpass.getuser()
    except (OSError, KeyError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def ask(run_dir: Path, verb: str, *, by: str, why: str = "", wave: int | None = None) -> None:
    """Write or take away the file of one request.

    :param verb: ``pause``, ``resume``, ``promote`` (``wave`` then says which) or ``abort``.
    :raises ControlError: ``control_failed``.
    """
    place = run_dir / "control"
    try:
        if verb == "resume":
            (place / "pause").unlink(missing_ok=True)
            return
        name = f"promote-{wave}" if verb == "promote" else verb
        write(place / name, json.dumps({"by": by, "why": why, "at": round(time.time(), 3)}) + "\n")
    except OSError as error:
        raise ControlError(
            "control_failed", f"{verb}: {place} cannot be written ({error.strerror}): `ktls off` needs no file"
        ) from error
