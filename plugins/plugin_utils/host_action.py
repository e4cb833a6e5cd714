# SPDX-License-Identifier: Apache-2.0
"""Base of actions for which a host that cannot be reached has failed, like any other.

Ansible keeps unreachable hosts apart from failed ones: they count for neither ``any_errors_fatal`` nor
``max_fail_percentage``, later batches go on without them, and inside a block they skip the rest of its rescue.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleConnectionFailure, AnsibleError
from ansible.plugins.action import ActionBase

#: The agent's command line on a host.
AGENT = "/usr/local/bin/ktls-agent"


class HostAction(ActionBase):
    """An action that never ends as ``unreachable``."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def ask(self, module: str, arguments: dict[str, Any], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        """Run a module of this collection.

        :returns: its result, with the host named in ``msg`` of a failure; ``cut_off: true`` when it did not answer.
        """

        def run() -> dict[str, Any]:
            answer: dict[str, Any] = self._execute_module(
                module_name=f"ktls.fleet.{module}", module_args=arguments, task_vars=task_vars
            )
            return answer

        return self._told(run, task_vars)

    def ask_agent(
        self, task: str, arguments: dict[str, Any], task_vars: dict[str, Any] | None, agent: str | None = None
    ) -> dict[str, Any]:
        """Have the agent's command line on the host do what module ``ktls_TASK`` does; no module is sent.

        It costs the control node a fifth of a module. Where the connection or its way to become root takes no input
        (no pipelining, a terminal asked for), the module it is.

        :param task: ``order`` or ``evidence``.
        :param agent: how that command line is called on the host.
        :returns: as :meth:`ask`; ``error_code`` ``agent_missing`` or ``agent_too_old``: nothing was changed.
        """
        if not self._connection.is_pipelining_enabled():
            return self.ask(f"ktls_{task}", arguments, task_vars)
        request = {"task": task, "check": bool(self._task.check_mode), "arguments": arguments}

        def run() -> dict[str, Any]:
            # On standard input: what is asked shows in no list of processes, and needs no quoting.
            return _answer(
                self._low_level_execute_command(f"{agent or AGENT} task", in_data=json.dumps(request).encode())
            )

        return self._told(run, task_vars)

    def _told(self, run: Callable[[], dict[str, Any]], task_vars: dict[str, Any] | None) -> dict[str, Any]:
        host = (task_vars or {}).get("inventory_hostname", "the host")
        try:
            answer = run()
        except AnsibleConnectionFailure as error:
            why = " ".join(str(error).split())
            return {
                "failed": True,
                "cut_off": True,
                "error_code": "cut_off",
                "msg": f"{host} cannot be reached: {why}",
            }
        except AnsibleError as error:
            # No way to become root, say. An answer like any other, or nobody would hear of it but the log.
            answer = _failed("failed", " ".join(str(error).split()))
        if answer.get("failed") and answer.get("msg"):
            answer["msg"] = f"{host}: {answer['msg']}"
        return answer

    def cleanup(self, force: bool = False) -> None:
        """Remove temporary files; a link that went down after the work must not turn its result into unreachable."""
        with contextlib.suppress(AnsibleConnectionFailure):
            super().cleanup(force)


def _answer(done: Mapping[str, Any]) -> dict[str, Any]:
    """What ``ktls-agent task`` said. Pure."""
    # A login shell, or what becomes root, may talk before it and after it.
    for line in reversed(done["stdout"].splitlines()):
        with contextlib.suppress(ValueError):
            said = json.loads(line).get("ktls_task") if line.startswith('{"ktls_task":') else None
            if isinstance(said, dict):
                return said
    lines = [line.strip() for line in done["stderr"].splitlines() if line.strip()]
    last = lines[-1] if lines else "it said nothing"
    if done["rc"] == 127:
        return _failed("agent_missing", f"there is no ktls-agent on it ({last}): deploy it (ktls deploy)")
    if done["rc"] == 2 and "invalid choice: 'task'" in last:
        return _failed(
            "agent_too_old", "its agent is older than this control node can order: deploy this release (ktls deploy)"
        )
    return _failed("failed", f"ktls-agent ended with status {done['rc']} and no answer: {last}")


def _failed(code: str, why: str) -> dict[str, Any]:
    return {"failed": True, "changed": False, "error_code": code, "msg": why}
