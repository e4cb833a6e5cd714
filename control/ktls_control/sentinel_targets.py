# SPDX-License-Identifier: Apache-2.0
"""Which sentinel watches which hosts, from the inventory. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .errors import ControlError

DEFAULT_PORT = 8443


def share(hosts: Sequence[str], sentinels: Sequence[str], me: str) -> list[str]:
    """Hosts that sentinel ``me`` watches: each host has one, in turn, so that all have about as many.

    A machine that is in both groups never watches itself: nothing of that goes over a wire.

    :raises ControlError: ``bad_sentinel``.
    """
    if me not in sentinels:
        raise ControlError("bad_sentinel", f"{me} is not in the group of the sentinels; add it there")
    mine = []
    for index, host in enumerate(hosts):
        others = [name for name in sentinels if name != host]
        if not others:
            raise ControlError("bad_sentinel", f"{host} would watch itself; name another machine as a sentinel")
        if others[index % len(others)] == me:
            mine.append(host)
    return mine


def target(name: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """One host as an entry of ``targets`` in the sentinel's configuration.

    Its address is ``ktls_sentinel_address`` where the host has that, for fleets whose traffic has another network than
    their SSH; else that of SSH.
    """
    address = variables.get("ktls_sentinel_address") or variables.get("ansible_host") or name
    return {
        "name": name,
        "host": str(address),
        "port": int(variables.get("ktls_sidecar_port") or DEFAULT_PORT),
        "server_name": str(variables.get("ktls_sidecar_server_name") or name),
    }
