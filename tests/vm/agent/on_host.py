# SPDX-License-Identifier: Apache-2.0
"""Run the guest's script on the one host of these tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..fleet.fleet import Deployed

GUEST = Path(__file__).with_name("guest.py")
HOST = "web1"


def shell(deployed: Deployed, script: str) -> str:
    """Output of a script on the host."""
    done = deployed.lab.ssh(HOST, script, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def send_guest(deployed: Deployed) -> None:
    """Put the guest's script on the host."""
    done = deployed.lab.ssh(HOST, "cat >/run/guest.py", stdin=GUEST.read_text())
    assert done.returncode == 0, done.stderr


def guest(deployed: Deployed, verb: str) -> dict[str, Any]:
    """What a verb of the guest's script found."""
    if deployed.lab.ssh(HOST, "test -e /run/guest.py").returncode != 0:
        send_guest(deployed)  # the host was booted since
    answer: dict[str, Any] = json.loads(shell(deployed, f"python3 /run/guest.py {verb}"))
    return answer
