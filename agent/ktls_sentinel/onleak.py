# SPDX-License-Identifier: Apache-2.0
"""The operator's command for a leak: run once, without a shell, and tried again a few times where it fails."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Sequence

from .watch import Leak

TRIES = 5
TIMEOUT_S = 60.0
PAUSE_S = 5.0
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "HOME", "TZ")


def run(
    command: Sequence[str],
    leaks: Sequence[Leak],
    log: Callable[[str], None],
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Run ``command`` until it ends with status 0, :data:`TRIES` times at most. Returns whether it did.

    It finds the leaks, as in the status, in the variable ``KTLS_LEAKS``; its input is empty.
    """
    environment = {key: os.environ[key] for key in _ENVIRONMENT if key in os.environ}
    environment["KTLS_LEAKS"] = json.dumps([leak.as_dict() for leak in leaks])
    for attempt in range(1, TRIES + 1):
        problem = _once(command, environment)
        if problem is None:
            log(f"on_leak: {command[0]} is done")
            return True
        log(f"on_leak: {command[0]} failed, try {attempt} of {TRIES}: {problem}")
        if attempt < TRIES:
            pause(PAUSE_S)
    return False


def _once(command: Sequence[str], environment: dict[str, str]) -> str | None:
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return f"no end within {TIMEOUT_S:g} s"
    except OSError as error:
        return error.strerror or str(error)
    if done.returncode == 0:
        return None
    said = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return f"exit status {done.returncode}" + (f": {said[-1][:200]}" if said else "")
