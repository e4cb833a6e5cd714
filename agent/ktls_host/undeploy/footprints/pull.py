# SPDX-License-Identifier: Apache-2.0
"""The pull of the signed off flag."""

from __future__ import annotations

from ... import flag_setup
from ..footprint import Footprint

FOOTPRINT = Footprint(
    "pull",
    units=(flag_setup.UNIT,),
    quiet=(flag_setup.UNIT,),
    files=(flag_setup.CONFIG, flag_setup.SIGNERS, flag_setup.CA, flag_setup.UNIT_PATH),
    state=(flag_setup.STATE_DIR, "/run/ktls-pull"),
)
