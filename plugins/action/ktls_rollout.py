# SPDX-License-Identifier: Apache-2.0
"""Action behind ``ktls_rollout``: one step of the rollout engine, on the control node only."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control import needs
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.errors import ControlError
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.plan.cards import SENTINELS
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.rollout import control, lock
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.rollout.begin import Wanted, begin
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.rollout.engine import Engine
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.rollout.implicit import Settings
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.rollout.store import Run

_ARGUMENTS = {
    "step": {"type": "str", "required": True, "choices": ["begin", "open", "soak", "judge", "close", "revert", "end"]},
    "run": {"type": "path"},
    "plan": {"type": "raw"},
    "phase": {"type": "str"},
    "group": {"type": "str"},
    "waves": {"type": "list", "elements": "raw"},
    "soak_s": {"type": "float", "default": 20.0},
    "soak_max_s": {"type": "float", "default": 60.0},
    "min_bytes": {"type": "int", "default": 1_000_000},
    "min_share": {"type": "float", "default": 0.99},
    "lease_s": {"type": "float", "default": 180.0},
    "without_sentinel": {"type": "bool", "default": False},
}
_PR_SET_PDEATHSIG = 1


class ActionModule(ActionBase):
    """Runs on the control node only; ``run_once`` for the whole wave."""

    TRANSFERS_FILES = False
    _supports_check_mode = True
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """:returns: what the step says, or ``failed`` with one line and ``error_code``."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, arguments = self.validate_argument_spec(argument_spec=_ARGUMENTS)
        main = _die_with_parent()
        task_vars = task_vars or {}
        control.launched(task_vars)
        step = arguments["step"]
        try:
            if step == "begin":
                return {**result, **self._begin(arguments, task_vars, main)}
            return {**result, **self._step(step, Run(Path(arguments["run"])), task_vars, main)}
        except ControlError as error:
            return {**result, "failed": True, "msg": error.message, "error_code": error.code, "touched": False}

    def _begin(self, arguments: dict[str, Any], task_vars: dict[str, Any], main: int) -> dict[str, Any]:
        needs.check(needs.JUDGE, "which judge its waves")
        hostvars = task_vars["hostvars"]
        wanted = Wanted(
            plan=arguments["plan"],
            phase=arguments["phase"],
            group=arguments["group"],
            inventory=",".join(task_vars.get("ansible_inventory_sources") or ()),
            hosts=list(task_vars["ansible_play_hosts_all"]),
            settings=Settings(
                [size.strip() if isinstance(size, str) else size for size in arguments["waves"] or ()],
                arguments["soak_s"],
                arguments["soak_max_s"],
                arguments["min_bytes"],
                arguments["min_share"],
                arguments["lease_s"],
                tuple((task_vars.get("groups") or {}).get(SENTINELS) or ()),
                arguments["without_sentinel"],
            ),
            variables=lambda name: hostvars[name],
            pid=main,
            check=self._task.check_mode,
        )
        begun = begin(wanted)
        said = {
            "run": str(begun.run.directory),
            "epoch": begun.epoch,
            "phase": begun.plan.phase,
            "hosts": list(begun.hosts),
            "sizes": list(begun.sizes),
            "resumed": begun.resumed,
        }
        return {"changed": False, "ansible_facts": {"ktls_rollout": said}, "run": said["run"]}

    def _step(self, step: str, run: Run, task_vars: dict[str, Any], main: int) -> dict[str, Any]:
        check = self._task.check_mode
        if not check and lock.said(run.fleet.lock).get("pid") != main:
            raise ControlError(
                "lock_lost", f"{run.fleet.name}: another process rolls out on this fleet now: this one stops"
            )
        over = step in ("end", "revert")
        try:
            with Engine.at(run, check=check) as engine:
                done: dict[str, Any] = {"changed": False}
                if step == "end":
                    engine.end()
                else:
                    done = engine.step(step, _wave(engine, task_vars))
            return {**done, **({"warnings": engine.complaints} if engine.complaints else {})}
        finally:
            if over and check:
                shutil.rmtree(run.fleet.directory.parent, ignore_errors=True)
            elif over:
                lock.release(run.fleet.lock, main)


def _wave(engine: Engine, task_vars: dict[str, Any]) -> int:
    """The number of the wave whose hosts this batch is: Ansible knows batches only."""
    batch = set(task_vars["ansible_play_batch"]) or {task_vars["inventory_hostname"]}
    return int(next(wave.number for wave in engine.plan.waves if batch & set(wave.hosts)))


def _die_with_parent() -> int:
    """End with ``ansible-playbook``, however that ends: a step must not go on with nobody to carry it out.

    :returns: the process id of ``ansible-playbook``.
    """
    parent = os.getppid()
    # prctl(2); where there is none, the check of the lock has to do.
    prctl = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    return parent
