# SPDX-License-Identifier: Apache-2.0
"""The agent with its helpers, timer and boot check."""

from __future__ import annotations

from dataclasses import replace

from ... import flag_setup
from . import component

_OWN = component.of("agent", without=(flag_setup.UNIT,))

FOOTPRINT = replace(_OWN, quiet=_OWN.units, state=(*_OWN.state, "/var/lib/ktls", "/run/ktls-*.sock"))
