# SPDX-License-Identifier: Apache-2.0
"""What guards look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

KERNEL, SIDECAR, PROBE, LOG, NIC = "kernel", "sidecar", "probe", "kernel log", "network cards"
GROUPS = (KERNEL, SIDECAR, PROBE, LOG, NIC)


@dataclass(frozen=True)
class Reading:
    """``at_s`` is CLOCK_BOOTTIME. ``values``: totals by name; a name that is missing is not known.

    ``seen_s``: when each group of :data:`GROUPS` was last really read; one that never was is missing.
    """

    at_s: float
    values: Mapping[str, float] = field(default_factory=dict)
    seen_s: Mapping[str, float] = field(default_factory=dict)
