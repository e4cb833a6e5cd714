# SPDX-License-Identifier: Apache-2.0
"""The agent with its helpers, timer and boot check."""

from __future__ import annotations

from ... import release
from ..footprint import Footprint

_PULL = ("ktls-pull.service",)  # installed with the agent, and a component of its own
_UNITS = tuple(unit for unit in release.units("agent") if unit not in _PULL)

FOOTPRINT = Footprint(
    "agent",
    units=_UNITS,
    quiet=_UNITS,
    files=("/etc/ktls/agent.json", *(f"/etc/systemd/system/{unit}" for unit in _UNITS)),
    links=release.links("agent"),
    state=("/var/lib/ktls", "/run/ktls-agent", "/run/ktls-*.sock"),
)
