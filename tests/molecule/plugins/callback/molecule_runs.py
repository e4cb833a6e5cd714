# SPDX-License-Identifier: Apache-2.0
"""Writes down what each playbook of a scenario did, one JSON object a playbook, in ``KTLS_MOLECULE_RUNS``."""

from __future__ import annotations

DOCUMENTATION = """
name: molecule_runs
type: notification
short_description: What each playbook of a scenario did
description: For the comparison of check mode with what was done, and for the times of the steps.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from ansible import context
from ansible.plugins.callback import CallbackBase

# Of a result, what check mode foretells beside C(changed).
_FORETOLD = ("steps", "started", "restarted", "stopped", "restart_required", "notes")


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Collects results and appends them when the playbook ends, however it ends."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "molecule_runs"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        """Nothing has happened yet."""
        super().__init__()
        self._playbook = ""
        self._began = 0.0
        self._results: list[dict[str, Any]] = []

    def v2_playbook_on_start(self, playbook: Any) -> None:
        """A scenario begins with its creation: what an earlier one left is of no use."""
        self._playbook = Path(playbook._file_name).stem
        self._began = time.time()
        path = _path()
        if path and self._playbook == "create":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("", encoding="utf-8")

    def v2_runner_on_ok(self, result: Any) -> None:
        """Note it."""
        self._note(result, "ok")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Note it."""
        self._note(result, "failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Note it."""
        self._note(result, "unreachable")

    def _note(self, result: Any, outcome: str) -> None:
        said = result._result
        self._results.append(
            {
                "host": result._host.get_name(),
                "task": result._task.get_name(),
                "outcome": outcome,
                "changed": bool(said.get("changed")),
                **{name: said[name] for name in _FORETOLD if name in said},
            }
        )

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Append the run."""
        path = _path()
        if path is None:
            return
        run = {
            "playbook": self._playbook,
            "check": bool(context.CLIARGS.get("check")),
            "took_s": round(time.time() - self._began, 1),
            "results": self._results,
        }
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(run, default=str) + "\n")


def _path() -> Path | None:
    named = os.environ.get("KTLS_MOLECULE_RUNS")
    return Path(named) if named else None
