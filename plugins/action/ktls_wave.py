# SPDX-License-Identifier: Apache-2.0
"""Action behind ``ktls_wave``: what one host of a wave does next; its answer goes into the run's directory.

What it returns is small, and an outcome that the engine decides about, such as a refused order, is no exception.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host import datapath_status
from ansible_collections.ktls.fleet.plugins.module_utils.ktls_host.probe_object import EXPECTED_SHA256
from ansible_collections.ktls.fleet.plugins.plugin_utils.host_action import HostAction
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.download import fetch
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.errors import ControlError
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.rollout.answers import Target, WaveFile, opened
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.rollout.machine import UNTOUCHED

_ARGUMENTS = {
    "step": {"type": "str", "required": True, "choices": ["order", "evidence", "confirm", "back"]},
    "wave": {"type": "path", "required": True},
}
_SHOWN = ("phase", "order", "epoch", "lease_left_s")


class ActionModule(HostAction):
    """One command on the host at most, whatever the step."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """:returns: ``changed``, ``status`` in short, and ``failed`` with one line for what went wrong on this host."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, arguments = self.validate_argument_spec(argument_spec=_ARGUMENTS)
        step, host = arguments["step"], str((task_vars or {})["inventory_hostname"])
        try:
            wave, touched = opened(Path(arguments["wave"]))
            if wave is None or host not in wave.hosts or (step == "back" and not touched):
                if step != "back":
                    raise ControlError("no_wave_file", f"it is in no wave that is open (step {step}): `ktls resume`")
                return {**result, "skipped": True, "changed": False}
            return {**result, **self._do(step, host, wave, task_vars or {})}
        except ControlError as error:
            return {**result, "failed": True, "msg": f"{host}: {error.message}", "error_code": error.code}

    def _do(self, step: str, host: str, wave: WaveFile, task_vars: dict[str, Any]) -> dict[str, Any]:
        target = wave.hosts[host]
        if step == "evidence":
            if host in wave.dropped or self._task.check_mode:
                return {"skipped": True, "changed": False}
            return self._evidence(host, wave, target, task_vars)
        if step != "order" and self._task.check_mode:
            return {"skipped": True, "changed": False}
        back = step == "back" or host in wave.dropped
        if back and (wave.answer(host, "order") or {}).get("code") in UNTOUCHED:
            # It refused before it changed anything: what it has is none of this rollout's.
            wave.record(host, step, {"ok": True, "skipped": True})
            return {"skipped": True, "changed": False}
        answer = self.ask_agent("order", _arguments(step, back, wave, host), task_vars, target.agent)
        told: dict[str, Any] = {"ok": not answer.get("failed"), "at": time.time()}
        if answer.get("failed"):
            told.update(error=str(answer.get("msg")), code=str(answer.get("error_code") or "failed"))
        elif step == "order":
            told["status"] = answer["status"]
        elif back and _stays(answer["status"], wave):
            told.update(ok=False, code="not_back", error=f"{host}: {_stays(answer['status'], wave)}")
        wave.record(host, step, told)
        keep = ("changed", "failed", "msg", "error_code", "cut_off", "diff")
        shown = {key: (answer.get("status") or {}).get(key) for key in _SHOWN}
        return {**{key: answer[key] for key in keep if key in answer}, "status": shown}

    def _evidence(self, host: str, wave: WaveFile, target: Target, task_vars: dict[str, Any]) -> dict[str, Any]:
        socket = {"socket": target.socket} if target.socket else {}
        answer = self.ask_agent("evidence", socket, task_vars, target.agent)
        if answer.get("failed"):
            # A host that does not answer is for the judge to speak of.
            code = str(answer.get("error_code") or "failed")
            wave.record(host, "evidence", {"ok": False, "error": str(answer.get("msg")), "code": code})
            return {"changed": False, "msg": answer.get("msg"), "cut_off": bool(answer.get("cut_off"))}
        kept = {key: answer.get(key) for key in ("status", "series", "series_error")}
        wave.record(host, "evidence", {"ok": True, "read_at": time.time(), **kept, "outside": _outside(target)})
        return {"changed": False, "status": {key: answer["status"].get(key) for key in _SHOWN}}


def _arguments(step: str, back: bool, wave: WaveFile, host: str) -> dict[str, Any]:
    """Arguments of ``ktls_order`` for a step; what is not said is left to the host."""
    target, experiment = wave.hosts[host], wave.experiment_of(host)
    common = {"id": wave.id, "epoch": wave.epoch, **({"socket": target.socket} if target.socket else {})}
    if back:
        return {**common, "state": "reverted", "reason": f"rollout {wave.id} goes back"}
    if step == "confirm":
        return {**common, "state": "confirmed"}
    order = {
        "phase": wave.phase,
        "lease_s": wave.lease_s,
        "plan_sha256": wave.plan_sha256,
        "facts": dict(target.facts),
        # A busy host may take its time to start helpers and test itself; half of a long lease is worth waiting for.
        "timeout_s": max(60.0, min(wave.lease_s / 2, 180.0)),
        **({"experiment": experiment} if experiment else {}),
    }
    return {**common, "state": "ordered", **order}


def _stays(status: dict[str, Any], wave: WaveFile) -> str:
    """What of the wave's own order is still in force after its way back; empty: nothing."""
    if status.get("order_id") != wave.id:
        return ""
    return str(datapath_status.stays(status))


def _outside(target: Target) -> dict[str, Any] | None:
    """A download from here, checked: what clients see, not what the host says of itself."""
    if not target.url:
        return None
    got = fetch(f"{target.url.rstrip('/')}/ktls-probe.bin", target.ca_file, target.server_name)
    if got.ok and got.sha256 != EXPECTED_SHA256:
        return {"ok": False, "error": f"content hash {got.sha256} is not {EXPECTED_SHA256}"}
    return {"ok": got.ok, "error": got.error}
