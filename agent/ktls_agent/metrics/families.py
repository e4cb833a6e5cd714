# SPDX-License-Identifier: Apache-2.0
"""Everything that the agent exposes, from what it knows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..evidence.model import Snapshot
from .catalogue import family
from .family import Family, Sample
from .kernel import from_snapshot, from_tls_stat, offload
from .serving import from_sidecar
from .state import SelfUse, from_self, from_status


def collect(
    status: Mapping[str, Any],
    snapshot: Snapshot | None,
    use: SelfUse | None,
    parts: Mapping[str, bool],
    now_s: float,
) -> Iterator[Family]:
    """Return the families of the catalogue, those of other parts excepted.

    ``snapshot``: the evidence, or None before there is any: then only what the status object has of the kernel is
    shown. ``parts``: whether each part runs. ``now_s``: CLOCK_BOOTTIME.
    """
    own = {"host": status["tls_stat"]} if status["tls_stat_available"] else {}
    if snapshot is None:
        yield from from_tls_stat(own)
        yield offload(own, {})
    else:
        yield from from_snapshot(replace(snapshot, namespaces=snapshot.namespaces or own), now_s)
    yield from from_sidecar(status["sidecar"])
    yield from from_status(status)
    if use is not None:
        yield from from_self(use)
    yield family("ktls_part_up", (Sample(int(up), {"part": name}) for name, up in parts.items()))
    audit = status.get("audit")
    if isinstance(audit, Mapping) and "problem" in audit:
        yield family("ktls_audit_ok", [Sample(int(not audit["problem"]))])
