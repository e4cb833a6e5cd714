# SPDX-License-Identifier: Apache-2.0
"""Small shapes that YAML cannot express."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ansible.errors import AnsibleError, AnsibleFilterError
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.errors import ControlError
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.preflight import summarise
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.preflight_events import registered
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.preflight_text import lines, plain
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.request import check_phase
from ansible_collections.ktls.fleet.plugins.plugin_utils.ktls_control.sentinel_targets import share, target
from jinja2 import TemplateError

#: Ansible indents a list of lines by eight and puts quotes around each.
_WIDTH = 100


def ktls_listen(addresses: Sequence[str], port: object) -> list[dict[str, Any]]:
    """``listen`` entries of the sidecar's configuration: one for each address."""
    return [{"host": str(address), "port": int(str(port))} for address in addresses]


def ktls_reason(reason: Mapping[str, str]) -> str:
    """One reason of a refusal as text, with its cure."""
    cure = reason.get("cure")
    return f"{reason['message']} ({reason['code']})" + (f"; cure: {cure}" if cure else "")


def ktls_preflight(hostvars: Mapping[str, Any], phase: str, hosts: Sequence[str], variable: str) -> dict[str, Any]:
    """The fleet's readiness for ``phase``, from the results of ``ktls_info``.

    :param hosts: the hosts asked.
    :param variable: where each host's result was registered.
    :returns: ``lines`` to show, worst first, ``summary`` in one line, and ``all_ready``.
    """
    try:
        check_phase(phase)
    except ControlError as error:
        raise AnsibleFilterError(error.message) from error
    fleet = summarise(phase, registered(hostvars, hosts, variable, _address))
    return {
        "lines": [plain(line) for line in lines(fleet, _WIDTH)],
        "summary": fleet.summary,
        "all_ready": fleet.all_ready,
    }


def ktls_sentinel_targets(
    hostvars: Mapping[str, Any], hosts: Sequence[str], sentinels: Sequence[str], me: str
) -> list[dict[str, Any]]:
    """``targets`` of the sentinel ``me``: its share of ``hosts``, with address, port and name from their variables."""
    try:
        return [target(name, hostvars[name]) for name in share(hosts, sentinels, me)]
    except ControlError as error:
        raise AnsibleFilterError(error.message) from error


def _address(variables: Mapping[str, Any]) -> str | None:
    """One host whose address is a broken template must not cost the others their report."""
    try:
        return str(variables["ansible_host"])
    except (KeyError, AnsibleError, TemplateError):
        return None


class FilterModule:
    """Filters ``ktls_listen``, ``ktls_reason``, ``ktls_preflight`` and ``ktls_sentinel_targets`` of ``ktls.fleet``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """:returns: filters by name."""
        return {
            "ktls_listen": ktls_listen,
            "ktls_reason": ktls_reason,
            "ktls_preflight": ktls_preflight,
            "ktls_sentinel_targets": ktls_sentinel_targets,
        }
