# SPDX-License-Identifier: Apache-2.0
"""Action behind ``ktls_certificate``: key and request on the host, signature on the control node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.ca import Authority
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.errors import ControlError

_ARGUMENTS = {
    "names": {"type": "list", "elements": "str", "required": True},
    "ca_dir": {"type": "path", "required": True},
    "directory": {"type": "path", "default": "/etc/ktls/tls"},
}


class ActionModule(ActionBase):
    """One module run on a host that has its certificate, two on one that needs it."""

    TRANSFERS_FILES = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """:returns: ``changed``, and ``needed``: why a new certificate was made, None when the old one serves."""
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, arguments = self.validate_argument_spec(argument_spec=_ARGUMENTS)
        names, directory = arguments["names"], arguments["directory"]
        if self._task.check_mode and not Authority(Path(arguments["ca_dir"])).certificate_path.exists():
            return {**result, "changed": True, "needed": "there is no authority yet"}
        try:
            authority = Authority.open(Path(arguments["ca_dir"]))
            request = self._execute_module(
                module_name="ktls.fleet.ktls_certificate_request",
                module_args={"names": names, "directory": directory, "ca": authority.certificate_pem},
                task_vars=task_vars,
            )
            if request.get("failed") or not request.get("needed") or self._task.check_mode:
                return {**result, **request}
            certificate = authority.sign(request["csr"], names)
        except ControlError as error:
            return {**result, "failed": True, "msg": error.message, "error_code": error.code}
        installed = self._execute_module(
            module_name="ktls.fleet.ktls_certificate_install",
            module_args={"certificate": certificate, "ca": authority.certificate_pem, "directory": directory},
            task_vars=task_vars,
        )
        return {**result, **installed, "needed": request["needed"]}
