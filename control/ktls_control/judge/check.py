# SPDX-License-Identifier: Apache-2.0
"""One named question of the gate and its answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Check:
    """One named question of the gate and its answer."""

    name: str
    outcome: Outcome
    detail: str
