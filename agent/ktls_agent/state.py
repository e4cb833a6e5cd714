# SPDX-License-Identifier: Apache-2.0
"""Where the order machine stands, in memory and on disk. Plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from .orders import USERSPACE, Order

UNDO_TRIES = 5


@dataclass(frozen=True)
class StepResult:
    """What one step of a revert came to. ``at_s`` is the wall clock: for people, never compared."""

    step: str  # nic | rx | tx | policy | module
    result: str  # done | nothing (to do) | kept | failed
    detail: str = ""
    at_s: float = 0.0


@dataclass(frozen=True)
class Revert:
    """How far the undoing of ``order`` has come. Every step is idempotent; what failed is tried again."""

    order: Order | None
    reason: str
    unload: bool = False  # the module shall go too, if nobody uses it
    tries: int = 0
    steps: tuple[StepResult, ...] = ()

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the steps that have not been done yet."""
        return tuple(step.step for step in self.steps if step.result == "failed")

    @property
    def open(self) -> bool:
        """Whether there is something left to try."""
        return (not self.steps or bool(self.failed)) and self.tries < UNDO_TRIES


@dataclass(frozen=True)
class Previous:
    """What was there before an order. ``mode`` and ``offload`` are what the host showed, None where it did not."""

    status: str = "none"
    phase: str = USERSPACE
    order: Order | None = None
    epoch: int = 0
    mode: str | None = None
    offload: Any = None


@dataclass(frozen=True)
class State:
    """Where the machine stands. ``deadline_s`` and ``since_s`` are on CLOCK_BOOTTIME."""

    status: str = "none"  # none | pending | committed | reverted | stuck
    order: Order | None = None
    epoch: int = 0  # high-water mark: older epochs are refused for ever
    deadline_s: float | None = None
    tested: bool = False  # the self-test of the pending order has passed
    reason: str | None = None  # why the order was reverted
    latched: bool = False  # off
    flag_seen: bool = False  # off, and the flag has been seen on disk since
    since_s: float | None = None  # when the pending order came
    connection: int = 0  # what the pending order came over; 0: not known
    revert: Revert | None = None
    stuck: bool = False  # a revert was given up; orders for kTLS are refused until cleared

    @property
    def wanted(self) -> str:
        """The datapath mode that must be in force: kTLS only under a live order, and never while off is latched."""
        if self.latched or self.order is None or self.status not in ("pending", "committed"):
            return USERSPACE
        return self.order.phase

    def lease_left_s(self, now_s: float) -> float | None:
        """Seconds until the pending order reverts by itself, or None."""
        if self.status != "pending" or self.deadline_s is None:
            return None
        return max(0.0, self.deadline_s - now_s)


@dataclass(frozen=True)
class Durable:
    """What the store found on disk. ``damaged`` names the files that could not be read and were set aside."""

    epoch: int = 0
    intent: Order | None = None
    intent_boot_id: str = ""
    record_status: str = "none"
    record_order: Order | None = None
    record_reason: str | None = None
    damaged: tuple[str, ...] = field(default=())
    revert: Revert | None = None
    stuck: bool = False
