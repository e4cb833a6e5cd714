# SPDX-License-Identifier: Apache-2.0
"""The plaintext sentinel, on a machine beside the hosts."""

from __future__ import annotations

from ... import release
from ..footprint import Footprint

FOOTPRINT = Footprint(
    "sentinel",
    units=release.units("sentinel"),
    files=(
        "/etc/ktls/sentinel.json",
        release.SENTINEL_CA,
        *(f"/etc/systemd/system/{unit}" for unit in release.units("sentinel")),
    ),
    links=release.links("sentinel"),
    # DynamicUser= keeps the state below private/, and a link to it (systemd.exec(5)).
    state=(
        "/var/lib/ktls-sentinel",
        "/var/lib/private/ktls-sentinel",
        "/run/ktls-sentinel",
        "/run/private/ktls-sentinel",
    ),
)
