# SPDX-License-Identifier: Apache-2.0
"""Small shapes that YAML cannot express."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def ktls_listen(addresses: Sequence[str], port: object) -> list[dict[str, Any]]:
    """``listen`` entries of the sidecar's configuration: one for each address."""
    return [{"host": str(address), "port": int(str(port))} for address in addresses]


def ktls_reason(reason: Mapping[str, str]) -> str:
    """One reason of a refusal as text, with its cure."""
    cure = reason.get("cure")
    return f"{reason['message']} ({reason['code']})" + (f"; cure: {cure}" if cure else "")


class FilterModule:
    """Filters ``ktls.fleet.ktls_listen`` and ``ktls.fleet.ktls_reason``."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """:returns: filters by name."""
        return {"ktls_listen": ktls_listen, "ktls_reason": ktls_reason}
