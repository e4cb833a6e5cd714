# SPDX-License-Identifier: Apache-2.0
"""Action behind ``ktls_gate``: soak on the control node, read the host once, judge, fail unless it passed."""

from __future__ import annotations

import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.probe_object import EXPECTED_SHA256
from ansible_collections.ktls.fleet.plugins.plugin_utils.host_action import HostAction
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.download import fetch
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.judge.gate import (
    PATH_OF_PHASE,
    GatePolicy,
    Verdict,
    judge_host,
)

_ARGUMENTS = {
    "phase": {"type": "str", "required": True, "choices": sorted(PATH_OF_PHASE)},
    "before": {"type": "dict", "required": True},
    "socket": {"type": "path"},
    "soak_s": {"type": "float", "default": 20.0},
    "soak_max_s": {"type": "float", "default": 60.0},
    "min_share": {"type": "float", "default": 0.99},
    "min_bytes": {"type": "int", "default": 1_000_000},
    "url": {"type": "str"},
    "server_name": {"type": "str"},
    "ca_file": {"type": "path"},
}
#: Seconds between looks while a soak is extended because there was too little traffic to judge.
_AGAIN_S = 5.0


class ActionModule(HostAction):
    """Runs on the control node; the only work on the host is one ``ktls_order state=observed``."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """:returns: the verdict as ``ktls_gate``; ``failed`` unless it is a pass."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, arguments = self.validate_argument_spec(argument_spec=_ARGUMENTS)
        if arguments["soak_max_s"] < arguments["soak_s"]:
            raise AnsibleActionFail("soak_max_s must not be smaller than soak_s")
        if self._task.check_mode:
            return {**result, "changed": False, "skipped": True, "msg": "a gate judges only what really ran"}
        verdict = self._soak(arguments, task_vars or {})
        result.update(changed=False, ktls_gate=verdict.as_dict())
        if verdict.outcome != "pass":
            host = (task_vars or {}).get("inventory_hostname", "the host")
            result.update(failed=True, msg=f"{host}: gate {verdict.outcome}: {verdict.reason}")
        return result

    def _soak(self, arguments: dict[str, Any], task_vars: dict[str, Any]) -> Verdict:
        started = time.monotonic()
        policy = GatePolicy(min_share=arguments["min_share"], min_bytes=arguments["min_bytes"])
        wait = arguments["soak_s"]
        while True:
            time.sleep(max(0.0, wait))
            after = self._observe(arguments["socket"], task_vars)
            outside = self._outside(arguments)
            verdict = judge_host(arguments["phase"], arguments["before"], after, policy, outside)
            left = arguments["soak_max_s"] - (time.monotonic() - started)
            if verdict.outcome != "inconclusive" or left <= 0:
                return verdict
            wait = min(_AGAIN_S, left)

    def _observe(self, socket: str | None, task_vars: dict[str, Any]) -> dict[str, Any] | None:
        arguments = {"state": "observed", "probe": True, **({"socket": socket} if socket else {})}
        answer = self.ask("ktls_order", arguments, task_vars)
        if answer.get("failed"):
            # A host that does not answer fails its gate like any other.
            self._display.vv(f"ktls_gate: {answer.get('msg')}")
            return None
        status: dict[str, Any] | None = answer.get("status")
        return status

    @staticmethod
    def _outside(arguments: dict[str, Any]) -> dict[str, Any] | None:
        if not arguments["url"]:
            return None
        got = fetch(f"{arguments['url'].rstrip('/')}/ktls-probe.bin", arguments["ca_file"], arguments["server_name"])
        if got.ok and got.sha256 != EXPECTED_SHA256:
            return {"ok": False, "error": f"content hash {got.sha256} is not {EXPECTED_SHA256}"}
        return {"ok": got.ok, "error": got.error}
