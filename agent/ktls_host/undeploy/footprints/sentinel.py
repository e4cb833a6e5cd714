# SPDX-License-Identifier: Apache-2.0
"""The plaintext sentinel, on a machine beside the hosts."""

from __future__ import annotations

from dataclasses import replace

from ... import release
from . import component

_OWN = component.of("sentinel")

FOOTPRINT = replace(
    _OWN,
    files=(*_OWN.files, release.SENTINEL_CA),
    # DynamicUser= keeps the state below private/, and a link to it (systemd.exec(5)).
    state=(*_OWN.state, "/var/lib/private/ktls-sentinel", "/run/private/ktls-sentinel"),
)
