# SPDX-License-Identifier: Apache-2.0
"""The footprints of all components.

A component of the release is covered by the release's tables. One that leaves more than those say gets a file here and
an entry in ``OWN``. What a lever or a datapath records needs none: its record says what there was before
(:mod:`ktls_host.undeploy.levers`).
"""

from __future__ import annotations

from ... import release
from ..footprint import Footprint
from . import agent, component, host, pull, sentinel, sidecar

OWN: tuple[Footprint, ...] = (host.FOOTPRINT, agent.FOOTPRINT, pull.FOOTPRINT, sidecar.FOOTPRINT, sentinel.FOOTPRINT)

ALL: tuple[Footprint, ...] = (
    *OWN,
    *(component.of(name) for name in release.COMPONENTS if name not in {part.name for part in OWN}),
)
