# SPDX-License-Identifier: Apache-2.0
"""Base of actions for which a host that cannot be reached has failed, like any other.

Ansible keeps unreachable hosts apart from failed ones: they count for neither ``any_errors_fatal`` nor
``max_fail_percentage``, later batches go on without them, and inside a block they skip the rest of its rescue.
"""

from __future__ import annotations

import contextlib
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase


class HostAction(ActionBase):
    """An action that never ends as ``unreachable``."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def ask(self, module: str, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Run a module of this collection.

        :returns: its result, with the host named in ``msg`` of a failure; ``cut_off: true`` when it did not answer.
        """
        host = (task_vars or {}).get("inventory_hostname", "the host")
        try:
            answer: dict[str, Any] = self._execute_module(
                module_name=f"ktls.fleet.{module}", module_args=arguments, task_vars=task_vars
            )
        except AnsibleConnectionFailure as error:
            why = " ".join(str(error).split())
            return {
                "failed": True,
                "cut_off": True,
                "error_code": "cut_off",
                "msg": f"{host} cannot be reached: {why}",
            }
        if answer.get("failed") and answer.get("msg"):
            answer["msg"] = f"{host}: {answer['msg']}"
        return answer

    def cleanup(self, force: bool = False) -> None:
        """Remove temporary files; a link that went down after the work must not turn its result into unreachable."""
        with contextlib.suppress(AnsibleConnectionFailure):
            super().cleanup(force)
