# SPDX-License-Identifier: Apache-2.0
"""The footprints of all components, in the order in which they start: a new component is one file here and one entry.

Records of levers need no entry: what a lever has recorded is put back by its record (:mod:`ktls_host.undeploy.levers`).
"""

from __future__ import annotations

from ..footprint import Footprint
from . import agent, host, pull, sentinel, sidecar

ALL: tuple[Footprint, ...] = (host.FOOTPRINT, agent.FOOTPRINT, pull.FOOTPRINT, sidecar.FOOTPRINT, sentinel.FOOTPRINT)
