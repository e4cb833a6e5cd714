# SPDX-License-Identifier: Apache-2.0
"""Action behind ``ktls_undeploy``: the module of that name in two stages, the audit trail copied between them."""

from __future__ import annotations

import base64
import binascii
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.ktls.fleet.plugins.plugin_utils.host_action import HostAction
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.errors import ControlError
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.rollout.store import fleet_name, state_dir
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.undeploy import keep

_AGENT = Path(__file__).resolve().parents[2] / "agent"


class ActionModule(HostAction):
    """Runs the module of the same name."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """:returns: the module's result over both stages; ``audit`` says where the copy is."""
        super().run(tmp, task_vars)
        variables = task_vars or {}
        arguments: dict[str, Any] = {
            name: value for name, value in self._task.args.items() if name not in ("stage", "copied")
        }
        if self._task.check_mode:
            predicted: dict[str, Any] = self.ask("ktls_undeploy", arguments, task_vars)
            return _told(predicted)
        prepared: dict[str, Any] = self.ask("ktls_undeploy", {**arguments, "stage": "prepare"}, task_vars)
        if prepared.get("failed"):
            return prepared
        kept: dict[str, Any] | None
        try:
            kept = self._copy(prepared.get("audit"), variables)
        except ControlError as error:
            host = variables.get("inventory_hostname", "the host")
            after = "it is on userspace TLS and its agent is stopped; nothing was removed"
            return {
                **prepared, "failed": True, "error_code": error.code, "msg": f"{host}: {error.message}; {after}"
            }  # fmt: skip
        copied = {} if kept is None else {"copied": kept["digest"]}
        removed = self.ask("ktls_undeploy", {**arguments, "stage": "remove", **copied}, task_vars)
        return _told(
            {
                **removed,
                "changed": bool(prepared.get("changed") or removed.get("changed")),
                "steps": [*prepared.get("steps", []), *removed.get("steps", [])],
                "left": list(dict.fromkeys([*prepared.get("left", []), *removed.get("left", [])])),
                "drained": prepared.get("drained"),
                "audit": kept,
            }
        )

    def _copy(self, audit: Any, variables: Mapping[str, Any]) -> dict[str, Any] | None:
        """Copy the trail and check it; None when there is none. Raises :class:`ControlError`."""
        if not isinstance(audit, dict):
            return None
        listed = keep.Listing.of(audit)
        where: Path = self._directory(variables) / keep.safe_name(str(variables.get("inventory_hostname")))
        files = {name: self._read(f"{listed.directory}/{name}") for name in listed.files}
        anchor = self._read(listed.anchor) if listed.anchor else None
        chain = str(self._task.args.get("audit") or "verified") == "verified"
        kept: dict[str, Any] = keep.keep(where, listed, files, anchor, keep.chain_checker(_AGENT), must_be_whole=chain)
        return kept

    def _read(self, path: str) -> bytes:
        """Return a file of the host, which only root can read: by the shell that becomes root there."""
        read = self._told(lambda: dict(self._low_level_execute_command(f"base64 -w0 -- {shlex.quote(path)}")), {})
        try:
            if read.get("failed") or read.get("rc") != 0:
                raise ValueError(read.get("msg") or str(read.get("stderr", "")).strip() or "it could not be read")
            return base64.b64decode(read["stdout"].strip(), validate=True)
        except (ValueError, binascii.Error) as error:
            message = f"the audit trail cannot be copied: {path}: {' '.join(str(error).split())}"
            raise ControlError("audit_not_copied", message) from error

    def _directory(self, variables: Mapping[str, Any]) -> Path:
        named = self._task.args.get("audit_dir")
        if named:
            return Path(str(named)).expanduser()
        sources = ",".join(variables.get("ansible_inventory_sources") or ())
        fleet: Path = state_dir() / fleet_name(sources, str(self._task.args.get("group") or "ktls_hosts"))
        return fleet / "audit"


def _told(result: dict[str, Any]) -> dict[str, Any]:
    """Add what the ``ktls`` command shows of it."""
    shown = {name: result.get(name) for name in ("steps", "left", "audit")}
    return result if result.get("failed") else {**result, "ktls_undeploy": shown}
