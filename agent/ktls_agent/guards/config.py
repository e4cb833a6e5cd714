# SPDX-License-Identifier: Apache-2.0
"""The section ``guards`` of the agent's configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ktls_host.errors import KtlsError


@dataclass(frozen=True)
class GuardsConfig:
    """Which invariants trip the kill switch, and when."""


def parse(raw: Any, source: str) -> GuardsConfig:
    """Check ``raw``; an empty object is the default. Raises :class:`KtlsError`: bad_config."""
    if not isinstance(raw, dict):
        raise KtlsError("bad_config", f"{source}: guards is not an object; correct it and restart the agent")
    for key in raw:
        raise KtlsError("bad_config", f"{source}: unknown key guards.{key}; correct it and restart the agent")
    return GuardsConfig()
