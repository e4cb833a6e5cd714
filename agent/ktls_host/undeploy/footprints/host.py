# SPDX-License-Identifier: Apache-2.0
"""What is there whatever runs: the release itself, the off switch, facts for Ansible, directories that are shared."""

from __future__ import annotations

from ... import info, originals, release
from ..footprint import Footprint

FOOTPRINT = Footprint(
    "host",
    files=(*release.shared_paths(), info.FACT_FILE),
    # /run/ktls-levers: notes of the policy lever until the next boot.
    state=(release.LIB, "/run/ktls", "/run/ktls-levers", originals.LOCK),
    # /etc/ktls-fleet: of the policy lever and of datapath service.
    directories=("/etc/ktls", "/etc/ktls-fleet", "/etc/ktls-fleet/policy"),
    users=release.USERS,
    groups=release.GROUPS,
)
