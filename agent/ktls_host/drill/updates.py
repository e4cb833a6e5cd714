# SPDX-License-Identifier: Apache-2.0
"""The KeyUpdate matrix of a host's stack in a few words. Pure."""

from __future__ import annotations

from typing import Any

from ..proof.openssl import KEY_UPDATES, Proof

OK, BREAKS, MIXED = "ok", "breaks", "differs by cipher"


def summary(proof: Proof) -> dict[str, Any]:
    """Return for ``tx`` and ``rx`` what each kind of KeyUpdate does, over all TLS 1.3 ciphers that the kernel takes.

    None for a direction that is in the kernel with no cipher. ``ciphers``: how many transmit there, of both versions.
    """
    found: dict[str, Any] = {"done": proof.done, "why": proof.why, "library": proof.library}
    found["ciphers"] = sum(cell.tx for cell in proof.cells)
    for mode in ("tx", "rx"):
        tried = [updates for cell in proof.cells if (updates := cell.key_update.get(mode)) is not None]
        found[mode] = (
            {kind: _of({updates.get(kind) == OK for updates in tried}) for kind in KEY_UPDATES} if tried else None
        )
    return found


def _of(outcomes: set[bool]) -> str:
    if len(outcomes) > 1:
        return MIXED
    return OK if outcomes == {True} else BREAKS
