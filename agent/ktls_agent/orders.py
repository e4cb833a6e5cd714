# SPDX-License-Identifier: Apache-2.0
"""What a control node asks of this host, checked: from the wire and from disk alike."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from ktls_host.errors import KtlsError

from .experiment import Experiment

USERSPACE = "userspace"
HW = "hw"
PHASES = (USERSPACE, "tx", "rx", HW)
LEASE_MIN_S = 1.0
LEASE_MAX_S = 86400.0  # also of all extensions together
EPOCH_MAX = 2**53  # the largest integer that every JSON reader keeps exact (RFC 8259 section 6)

_ID = re.compile(r"[A-Za-z0-9._:@+-]{1,128}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class RefusedError(KtlsError):
    """An order or a verb that the machine does not carry out. Nothing was changed."""


@dataclass(frozen=True)
class Order:
    """What the control node asks of this host. ``lease_s`` is in seconds. ``experiment``: while it is pending."""

    id: str
    epoch: int
    phase: str
    lease_s: float
    plan_sha256: str
    experiment: Experiment | None = None

    @property
    def key(self) -> tuple[str, int]:
        """What identifies an order: its id and its epoch."""
        return (self.id, self.epoch)

    @classmethod
    def parse(cls, raw: object) -> Order:
        """Check ``raw``, from the wire or from disk. Raises :class:`RefusedError`: bad_order, unsupported_phase."""
        if not isinstance(raw, dict):
            raise RefusedError("bad_order", "the order is not an object; send {id, epoch, phase, lease_s, plan_sha256}")
        wanted = {"id", "epoch", "phase", "lease_s", "plan_sha256"}
        if set(raw) - {"experiment"} != wanted:
            odd = ", ".join(sorted(str(name) for name in (set(raw) - {"experiment"}) ^ wanted))
            raise RefusedError("bad_order", f"the order has missing or unknown keys: {odd[:200]}")
        order_id, epoch, phase, lease, plan = (raw[k] for k in ("id", "epoch", "phase", "lease_s", "plan_sha256"))
        if not isinstance(order_id, str) or not _ID.match(order_id):
            raise RefusedError("bad_order", "order id: use 1 to 128 characters of A-Z a-z 0-9 . _ : @ + -")
        if isinstance(epoch, bool) or not isinstance(epoch, int) or not 1 <= epoch <= EPOCH_MAX:
            raise RefusedError("bad_order", f"order epoch: use an integer from 1 to {EPOCH_MAX}")
        if not isinstance(phase, str) or phase not in PHASES:
            raise RefusedError("unsupported_phase", f"unknown phase {str(phase)[:40]!r}; use one of {PHASES}")
        if not isinstance(plan, str) or not _SHA256.match(plan):
            raise RefusedError("bad_order", "order plan_sha256: use the 64 lower-case hex digits of the plan's SHA-256")
        return cls(order_id, epoch, phase, checked_lease(lease), plan, _checked_experiment(raw, phase))

    def as_dict(self) -> dict[str, Any]:
        """Return the wire form; an order without an experiment has no such key."""
        more = {} if self.experiment is None else {"experiment": self.experiment.as_dict()}
        return {
            "id": self.id,
            "epoch": self.epoch,
            "phase": self.phase,
            "lease_s": self.lease_s,
            "plan_sha256": self.plan_sha256,
            **more,
        }


def _checked_experiment(raw: dict[str, Any], phase: str) -> Experiment | None:
    if "experiment" not in raw:
        return None
    if phase == USERSPACE:
        raise RefusedError("bad_order", "an order for userspace has no experiment: there is nothing to compare")
    try:
        return Experiment.parse(raw["experiment"])
    except ValueError as error:
        raise RefusedError("bad_order", f"order experiment: {error}") from error


def checked_lease(lease: object) -> float:
    """Return a lease in seconds. Raises :class:`RefusedError`: bad_order."""
    if isinstance(lease, bool) or not isinstance(lease, (int, float)) or not math.isfinite(lease):
        raise RefusedError("bad_order", "order lease_s: use a number of seconds")
    if not LEASE_MIN_S <= lease <= LEASE_MAX_S:
        raise RefusedError("bad_order", f"order lease_s: use {LEASE_MIN_S:g} to {LEASE_MAX_S:g} seconds")
    return float(lease)
