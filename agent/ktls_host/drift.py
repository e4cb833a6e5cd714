# SPDX-License-Identifier: Apache-2.0
"""Whether a host is still what it was when a rollout was planned. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import datapath_status
from .errors import KtlsError


def facts(status: Mapping[str, Any]) -> dict[str, str]:
    """Return what of an agent's status must not change between plan and order; what is not known is left out."""
    host, sidecar = status.get("host") or {}, status.get("sidecar") or {}
    found = {"kernel": host.get("kernel"), "openssl": host.get("openssl"), "agent": status.get("version")}
    path = datapath_status.of(status)
    if path.is_sidecar:
        found["sidecar"] = sidecar.get("version")
    else:
        # Another program, or one that can do something else now, is another host.
        found["datapath"] = f"{path.kind} {path.unit}".strip()
        found["program"] = f"{path.program} {path.version}".strip()
        found["modes"] = " ".join(path.modes)
    return {name: str(value) for name, value in found.items() if value}


def refuse_drift(status: Mapping[str, Any], planned: Mapping[str, str]) -> None:
    """Raise :class:`KtlsError` ``facts_drifted`` if a planned fact is another one now, or cannot be told any more."""
    now = facts(status)
    changed = [
        f"{name} was {was}, is {now.get(name, 'not known')}" for name, was in sorted(planned.items()) if was
        and now.get(name) != was
    ]  # fmt: skip
    if changed:
        raise KtlsError(
            "facts_drifted", f"it is not what was planned for: {'; '.join(changed)}: make a new plan with `ktls plan`"
        )
