# SPDX-License-Identifier: Apache-2.0
"""Action behind ``ktls_request``: refuse a wrong request before any host is touched."""

from __future__ import annotations

import uuid
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.errors import ControlError
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.request import Request, check, digest

_ARGUMENTS = {
    "verb": {"type": "str", "required": True},
    "phase": {"type": "str"},
    "group": {"type": "str", "required": True},
    "waves": {"type": "list", "elements": "raw"},
    "soak_max_s": {"type": "float"},
    "lease_s": {"type": "float"},
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
        groups = (task_vars or {}).get("groups") or {}
        arguments["hosts"] = groups.get(arguments["group"])
        request = Request(**arguments)
        try:
            check(request)
        except ControlError as error:
            return {**result, "failed": True, "msg": error.message, "error_code": error.code}
        return {**result, "changed": False, "request_id": uuid.uuid4().hex, "plan_sha256": digest(request)}
