# SPDX-License-Identifier: Apache-2.0
"""Action behind ``ktls_request``: refuse a wrong request before any host is touched."""

from __future__ import annotations

import uuid
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.errors import ControlError
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.off.runs import runs, stop
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.request import (
    Request,
    check,
    check_consent,
    digest,
)
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.rollout.control import launched, operator

_ARGUMENTS = {
    "verb": {"type": "str", "required": True},
    "phase": {"type": "str"},
    "group": {"type": "str", "required": True},
    "waves": {"type": "list", "elements": "raw"},
    "soak_max_s": {"type": "float"},
    "lease_s": {"type": "float"},
    "sources": {"type": "list", "elements": "str", "default": []},
    "reason": {"type": "str", "default": "off"},
    "consent": {"type": "bool", "default": False},
}


class ActionModule(ActionBase):
    """Runs on the control node only."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """:returns: ``request_id``, new for each request, or ``failed`` with one line and ``error_code``."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, arguments = self.validate_argument_spec(argument_spec=_ARGUMENTS)
        sources, reason, consent = arguments.pop("sources"), arguments.pop("reason"), arguments.pop("consent")
        launched(task_vars or {})
        groups = (task_vars or {}).get("groups") or {}
        arguments["hosts"] = groups.get(arguments["group"])
        request = Request(**arguments)
        try:
            check(request)
            if not self._task.check_mode:
                check_consent(request, consent)
        except ControlError as error:
            return {**result, "failed": True, "msg": error.message, "error_code": error.code}
        if request.verb in ("off", "undeploy") and not self._task.check_mode:
            result["told"] = self._end_rollouts(sources, request.group, reason)
        return {**result, "changed": False, "request_id": uuid.uuid4().hex, "plan_sha256": digest(request)}

    def _end_rollouts(self, sources: list[str], group: str, reason: str) -> list[str]:
        """Tell the rollout that is under way to end. What goes wrong here is a warning: off is never in its way."""
        told = []
        for source in sources:
            newest = next(iter(runs(source, group)), None)
            if newest is None or not newest.under_way():
                continue
            try:
                stop(newest, f"{self._task.args['verb']}.yml, {operator()}", reason)
                told.append(newest.name)
            except ControlError as error:
                self._display.warning(f"rollout {newest.name} could not be told to end: {error.message}")
        return told
