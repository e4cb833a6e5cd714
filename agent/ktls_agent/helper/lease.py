# SPDX-License-Identifier: Apache-2.0
"""Start and stop the timer that watches the lease: ``ktls-lease.timer``, and no other unit.

The answer to ``arm`` is sent when systemd has the timer active, not before: the agent applies nothing until then.
"""

from __future__ import annotations

from typing import Any, Callable

from ktls_host.commands import Runner
from ktls_host.errors import KtlsError

TIMER = "ktls-lease.timer"


def arm(runner: Runner | None = None) -> dict[str, Any]:
    """Start the timer. Raises :class:`KtlsError` ``arm_failed``."""
    return _bring("start", "active", "arm_failed", runner or Runner())


def disarm(runner: Runner | None = None) -> dict[str, Any]:
    """Stop the timer. Raises :class:`KtlsError` ``disarm_failed``."""
    return _bring("stop", "inactive", "disarm_failed", runner or Runner())


def _bring(verb: str, wanted: str, code: str, runner: Runner) -> dict[str, Any]:
    done = runner.run(("systemctl", verb, TIMER))
    shown = runner.run(("systemctl", "show", "--property=ActiveState", "--value", TIMER))
    state = shown.stdout.strip()
    if state != wanted:
        why = done.reason if done.rc != 0 else f"it is {state or 'unknown'}"
        raise KtlsError(code, f"systemctl {verb} {TIMER} did not make it {wanted} ({why}); deploy the agent's role")
    return {"timer": state}


VERBS: dict[str, Callable[[], dict[str, Any]]] = {"arm": arm, "disarm": disarm}
