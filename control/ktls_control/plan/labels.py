# SPDX-License-Identifier: Apache-2.0
"""What caps go by: rack, NIC model and kernel of a host. Pure. (Facts that must not drift: ``ktls_host.drift``.)"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..preflight import HostRow
from .texts import harmless

#: Interfaces that are no cards.
_VIRTUAL = frozenset(
    {"bonding", "bridge", "dummy", "ifb", "macvlan", "team", "tun", "veth", "vxlan", "802.1Q VLAN Support"}
)


def labels(
    variables: Mapping[str, Any], names: Mapping[str, str], row: HostRow, read: Mapping[str, str]
) -> dict[str, str]:
    """Rack, NIC model and kernel: inventory variables where there are any, else what was read; empty is unknown.

    :param names: of the variables, by label.
    :param read: the host's facts, see :func:`ktls_host.drift.facts`.
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
