# SPDX-License-Identifier: Apache-2.0
"""What a plan takes down of a host: facts that must not drift, labels that caps go by. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..preflight import HostRow
from .texts import harmless

#: Interfaces that are no cards.
_VIRTUAL = frozenset(
    {"bonding", "bridge", "dummy", "ifb", "macvlan", "team", "tun", "veth", "vxlan", "802.1Q VLAN Support"}
)


def facts(status: Mapping[str, Any]) -> dict[str, str]:
    """From an agent's status; what it does not say is left out. They must be the same at the order."""
    host, sidecar = _mapping(status.get("host")), _mapping(status.get("sidecar"))
    found = {
        "kernel": host.get("kernel"),
        "openssl": host.get("openssl"),
        "agent": status.get("version"),
        "sidecar": sidecar.get("version"),
    }
    return {name: str(value) for name, value in found.items() if value}


def labels(
    variables: Mapping[str, Any], names: Mapping[str, str], row: HostRow, read: Mapping[str, str]
) -> dict[str, str]:
    """Rack, NIC model and kernel: inventory variables where there are any, else what was read; empty is unknown.

    :param names: of the variables, by label.
    :param read: the host's facts, see :func:`facts`.
    """
    said = {label: _label(variables.get(name)) for label, name in names.items()}
    drivers = sorted({str(nic["driver"]) for nic in row.nics if nic.get("driver")} - _VIRTUAL)
    return {
        "rack": said.get("rack", ""),
        "nic_model": said.get("nic_model") or "+".join(drivers),
        "kernel": said.get("kernel") or row.kernel or _label(read.get("kernel")),
    }


def _label(value: object) -> str:
    return "" if value is None else harmless(value)


def _mapping(given: object) -> Mapping[str, Any]:
    return given if isinstance(given, Mapping) else {}
