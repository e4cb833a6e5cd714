# SPDX-License-Identifier: Apache-2.0
"""One JSON line per event of a playbook run, for the ``ktls`` command."""

from __future__ import annotations

DOCUMENTATION = """
name: ktls_events
type: notification
short_description: Write one JSON line per event to a file
version_added: 0.1.0
author: The ktls-fleet authors (@ktls-fleet)
description:
  - The C(ktls) command follows this file to draw its live view and to write its reports.
  - Does nothing unless a file is named.
requirements:
  - enable it in C(callbacks_enabled)
options:
  path:
    description: File that the events are appended to.
    type: path
    env:
      - name: KTLS_EVENTS
    ini:
      - section: callback_ktls_events
        key: path
"""

import json
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

#: Result keys that the events carry; everything else may hold what nobody should log.
_KEYS = ("msg", "status", "info", "ktls_drill", "ktls_undeploy", "changed", "cached", "error_code", "cut_off", "run")


class CallbackModule(CallbackBase):
    """Plays, tasks and host results as JSON lines; unknown to it is what they mean."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "ktls.fleet.ktls_events"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._play = ""

    def _write(self, kind: str, **fields: Any) -> None:
        path = self.get_option("path")
        if not path:
            return
        line = json.dumps({"event": kind, "time": time.time(), "play": self._play, **fields}, default=str)
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """A play, or the next batch of one: with ``serial`` this is called once for each wave."""
        self._play = play.get_name().strip()
        hosts = play.get_variable_manager()._inventory.get_hosts(play.hosts) if play.hosts else []
        serial = [host.name for host in hosts]
        self._write("play", hosts=serial)

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """A task is about to run on the hosts of the current wave."""
        self._write("task", task=task.get_name().strip())

    def v2_runner_on_start(self, host: Any, task: Any) -> None:
        """A task starts on one host."""
        self._write("start", task=task.get_name().strip(), host=host.name)

    def v2_runner_on_ok(self, result: Any) -> None:
        """A task went well on one host."""
        self._result("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """A task failed on one host."""
        self._result("ignored" if ignore_errors else "failed", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """A host could not be reached."""
        self._result("unreachable", result)

    def v2_playbook_on_no_hosts_matched(self) -> None:
        """The pattern of a play matches no host."""
        self._write("no_hosts")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """The end: totals by host."""
        self._write("stats", hosts={name: stats.summarize(name) for name in sorted(stats.processed)})

    def _result(self, outcome: str, result: Any) -> None:
        data = result._result
        fields = {key: data[key] for key in _KEYS if key in data}
        if result._task.no_log:
            fields = {"msg": "hidden by no_log"}
        self._write(outcome, task=result._task.get_name().strip(), host=result._host.name, **fields)
