# SPDX-License-Identifier: Apache-2.0
"""Action behind ``ktls_drill``: the module of that name, its result kept on the control node for ``ktls plan``."""

from __future__ import annotations

import time
from typing import Any

from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.probe_object import EXPECTED_SHA256
from ansible_collections.ktls.fleet.plugins.plugin_utils.host_action import HostAction
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.drill import record
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.drill.downloads import Downloads
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.errors import ControlError
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.rollout.answers import REACH, Known
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.rollout.store import fleet_name, state_dir


class ActionModule(HostAction):
    """Runs the module of the same name."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """:returns: the module's result, with ``ktls_drill`` as it is kept; ``failed`` unless the drill passed."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        phase = str(self._task.args.get("phase") or "tx")
        with self._downloads(phase, variables) as downloads:
            answer: dict[str, Any] = self.ask("ktls_drill", dict(self._task.args), task_vars)
        if self._task.check_mode and not answer.get("failed"):
            return answer
        drill = answer.get("drill")
        kept = record.entry(drill if isinstance(drill, dict) else None, str(answer.get("msg")), time.time())
        kept["refused"] = bool((drill or {}).get("refused"))
        kept["phase"] = phase
        if downloads.damaged and kept["passed"]:
            # What the host says of itself is well, and what arrived here is not.
            answer.update(failed=True, msg=f"content: {downloads.damaged}", error_code="drill_content")
            kept.update(passed=False, detail=f"content: {downloads.damaged}", code="drill_content")
        answer["ktls_drill"] = kept
        fleet = self._fleet(variables)
        # In use: that says nothing against the drill that was.
        if fleet and not kept["refused"]:
            try:
                record.keep(state_dir() / fleet, str(variables.get("inventory_hostname")), kept)
            except ControlError as error:
                answer.update(failed=True, msg=f"the drill is done, but not on record: {error.message}")
        return answer

    def _downloads(self, phase: str, variables: dict[str, Any]) -> Downloads:
        """Of phase ``hw``: a card has nothing to do unless somebody downloads over the network."""
        if phase != "hw" or self._task.check_mode:
            return Downloads(None, None, None, EXPECTED_SHA256)
        host = str(variables.get("inventory_hostname"))
        # Those of the host itself, in which templates are worked out.
        own = variables["hostvars"][host]
        target = Known({host: {name: own.get(name) for name in REACH}}).target(host, {})
        return Downloads(target.url, target.ca_file, target.server_name, EXPECTED_SHA256)

    def _fleet(self, variables: dict[str, Any]) -> str:
        named = self._task.args.get("fleet")
        if named is not None:
            return str(named)
        sources = ",".join(variables.get("ansible_inventory_sources") or ())
        name: str = fleet_name(sources, str(self._task.args.get("group") or "ktls_hosts"))
        return name
