# SPDX-License-Identifier: Apache-2.0
"""Action behind ``ktls_order``: the module of that name, with unreachable hosts as failures."""

from __future__ import annotations

from typing import Any

from ansible_collections.ktls.fleet.plugins.plugin_utils.host_action import HostAction


class ActionModule(HostAction):
    """Runs the module of the same name."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """:returns: the module's result, or ``failed`` with ``cut_off: true`` for a host that does not answer."""
        super().run(tmp, task_vars)
        answer: dict[str, Any] = self.ask("ktls_order", dict(self._task.args), task_vars)
        return answer
