# SPDX-License-Identifier: Apache-2.0
"""What a drill is asked for and what it came to, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Optional

from ..errors import KtlsError

STEPS = ("look", "keyupdate", "enable", "card", "off", "drain", "undone", "probe", "clear", "compare")
"""In their order. ``look``: whether there may be a drill at all; nothing was touched when it ends there. ``card``: of
phase ``hw`` only."""
Times = dict[str, Optional[float]]  # evaluated at run time, where Python 3.9 has no X | None


class DrillError(KtlsError):
    """A step did not do what it must. The code is ``drill_STEP``, or of a refusal."""


@dataclass(frozen=True)
class Wish:
    """``force``: also where an order is pending or kTLS is committed, which the drill takes away.

    ``lease_s``: how long the order may be in force if this process dies. ``drain_s``: how long the connections of the
    drill may take to end. ``keyupdate``: try new keys on this host's kernel and OpenSSL. ``phase``: ``tx`` or ``hw``;
    ``card_s``: of ``hw``, how long its card may take to encrypt something.
    """

    id: str
    force: bool = False
    lease_s: float = 120.0
    drain_s: float = 60.0
    keyupdate: bool = True
    phase: str = "tx"
    card_s: float = 60.0


@dataclass
class Result:
    """``at``: Unix time of the end. ``why``: what did not pass, with ``step`` and ``code``.

    ``refused``: there was no drill, and nothing was touched.

    ``durations``, in seconds: ``enable_s`` (ordered and proved), ``off_s`` (from the start of ktls-off until new
    connections are userspace), ``drained_s`` (until no connection of the sidecar is kTLS), ``total_s``; of phase ``hw``
    ``card_s`` (from the proof of kTLS until the card had encrypted enough). ``left``: what the host is left in, where
    that is not what it was.

    ``means``: what the phase is on this datapath, ``tx+rx`` for tx where both directions go together.

    ``card``: what the card did, ``protocol``: what the agent's own download negotiated before and after. Of ``hw``.
    """

    id: str
    ok: bool = False
    at: float = 0.0
    step: str = ""
    why: str = ""
    code: str = ""
    refused: bool = False
    host: Mapping[str, Any] = field(default_factory=dict)
    durations: Times = field(default_factory=dict)
    keyupdate: Mapping[str, Any] | None = None
    compared: int = 0
    differences: tuple[str, ...] = ()
    left: str = ""
    phase: str = "tx"
    card: Mapping[str, Any] | None = None
    protocol: str = ""
    means: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**asdict(self), "differences": list(self.differences)}
