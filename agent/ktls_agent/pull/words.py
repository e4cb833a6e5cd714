# SPDX-License-Identifier: Apache-2.0
"""The pull in a few short lines for people."""

from __future__ import annotations

from typing import Any


def lines(pull: dict[str, Any] | None) -> list[str]:
    """Return the lines of `ktls-agent status`; none on a host that does not pull."""
    if not pull or "endpoints" not in pull:
        return []
    endpoints = pull["endpoints"]
    valid = sum(endpoint["result"] in ("off", "none") for endpoint in endpoints)
    age = "" if pull["age_s"] is None else f", valid {pull['age_s']:.0f} s ago"
    serial = "" if pull["serial"] is None else f", serial {pull['serial']}"
    found = f"  signed flag: {pull['state']}{serial}{age}, at {valid} of {len(endpoints)} endpoints"
    return [found, *(f"  PROBLEM: {problem}" for problem in pull["problems"])]
