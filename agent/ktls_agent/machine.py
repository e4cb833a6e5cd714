# SPDX-License-Identifier: Apache-2.0
"""The order machine: pure. ``step(state, event)`` returns the next state and what must be done for it.

Two directions, two rules. Towards kTLS, everything in ``prepare`` must be durable before the new state is in force;
if it fails, nothing has happened. Towards userspace, the new state is in force at once and ``follow`` is carried out
after it, each part as well as the host allows: nothing may stop it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import Any, Union

from ktls_host.errors import KtlsError

USERSPACE = "userspace"
PHASES = (USERSPACE, "tx")
LATER_PHASES = ("rx", "hw")
LEASE_MIN_S = 1.0
LEASE_MAX_S = 86400.0
EPOCH_MAX = 2**53  # the largest integer that every JSON reader keeps exact (RFC 8259 section 6)

_ID = re.compile(r"[A-Za-z0-9._:@+-]{1,128}\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")


class RefusedError(KtlsError):
    """An order or a verb that the machine does not carry out. Nothing was changed."""


@dataclass(frozen=True)
class Order:
    """What the control node asks of this host. ``lease_s`` is in seconds."""

    id: str
    epoch: int
    phase: str
    lease_s: float
    plan_sha256: str

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
        if set(raw) != wanted:
            odd = ", ".join(sorted(str(name) for name in set(raw) ^ wanted))
            raise RefusedError("bad_order", f"the order has missing or unknown keys: {odd[:200]}")
        order_id, epoch, phase, lease, plan = (raw[k] for k in ("id", "epoch", "phase", "lease_s", "plan_sha256"))
        if not isinstance(order_id, str) or not _ID.match(order_id):
            raise RefusedError("bad_order", "order id: use 1 to 128 characters of A-Z a-z 0-9 . _ : @ + -")
        if isinstance(epoch, bool) or not isinstance(epoch, int) or not 1 <= epoch <= EPOCH_MAX:
            raise RefusedError("bad_order", f"order epoch: use an integer from 1 to {EPOCH_MAX}")
        if not isinstance(phase, str) or phase not in PHASES:
            if phase in LATER_PHASES:
                raise RefusedError("unsupported_phase", f"phase {phase} is not in this release; use one of {PHASES}")
            raise RefusedError("unsupported_phase", f"unknown phase {str(phase)[:40]!r}; use one of {PHASES}")
        if isinstance(lease, bool) or not isinstance(lease, (int, float)) or not math.isfinite(lease):
            raise RefusedError("bad_order", "order lease_s: use a number of seconds")
        if not LEASE_MIN_S <= lease <= LEASE_MAX_S:
            raise RefusedError("bad_order", f"order lease_s: use {LEASE_MIN_S:g} to {LEASE_MAX_S:g} seconds")
        if not isinstance(plan, str) or not _SHA256.match(plan):
            raise RefusedError("bad_order", "order plan_sha256: use the 64 lower-case hex digits of the plan's SHA-256")
        return cls(order_id, epoch, phase, float(lease), plan)

    def as_dict(self) -> dict[str, Any]:
        """Return the wire form."""
        return {
            "id": self.id,
            "epoch": self.epoch,
            "phase": self.phase,
            "lease_s": self.lease_s,
            "plan_sha256": self.plan_sha256,
        }


@dataclass(frozen=True)
class State:
    """Where the machine stands. ``deadline_s`` is on CLOCK_BOOTTIME."""

    status: str = "none"  # none | pending | committed | reverted
    order: Order | None = None
    epoch: int = 0  # high-water mark: older epochs are refused for ever
    deadline_s: float | None = None
    tested: bool = False  # the self-test of the pending order has passed
    reason: str | None = None  # why the order was reverted
    latched: bool = False  # off
    flag_seen: bool = False  # off, and the flag has been seen on disk since

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


# Effects. The executor knows how; the machine knows when.


@dataclass(frozen=True)
class PutEpoch:
    """Make the high-water mark durable."""

    epoch: int


@dataclass(frozen=True)
class PutIntent:
    """Make durable that ``order`` is about to be applied, and is to be undone unless confirmed."""

    order: Order
    deadline_s: float


@dataclass(frozen=True)
class DropIntent:
    """Remove the intent, once the outcome of its order is durable."""


@dataclass(frozen=True)
class PutRecord:
    """Make the outcome of an order durable: ``committed`` or ``reverted``."""

    status: str
    order: Order | None
    reason: str | None = None


@dataclass(frozen=True)
class PutFlags:
    """Write whichever off flag is missing, the one in /run first."""

    reason: str


@dataclass(frozen=True)
class DropFlags:
    """Remove both off flags."""


@dataclass(frozen=True)
class SyncMode:
    """Bring the sidecar to ``State.wanted``."""


@dataclass(frozen=True)
class SelfTest:
    """Verify the mode in force and transfer the probe object."""

    order: Order


Effect = Union[PutEpoch, PutIntent, DropIntent, PutRecord, PutFlags, DropFlags, SyncMode, SelfTest]


@dataclass(frozen=True)
class Transition:
    """The next state, what must succeed before it is in force, and what follows from it."""

    state: State
    prepare: tuple[Effect, ...] = ()
    follow: tuple[Effect, ...] = ()


# Events.


@dataclass(frozen=True)
class OrderCame:
    """A checked order. ``flag`` and ``ktls`` are read from the host at this moment."""

    order: Order
    now_s: float
    flag: bool
    ktls: bool


@dataclass(frozen=True)
class TestPassed:
    """The self-test of ``order`` passed."""

    order: Order


@dataclass(frozen=True)
class ConfirmCame:
    """The control node confirms over a new connection."""

    id: str
    epoch: int
    now_s: float
    flag: bool


@dataclass(frozen=True)
class RevertCame:
    """Back to userspace. With ``order``: only if that order is still the pending one."""

    reason: str
    order: Order | None = None


@dataclass(frozen=True)
class OffCame:
    """The kill switch."""

    reason: str


@dataclass(frozen=True)
class ClearCame:
    """Root takes the off flag away."""


@dataclass(frozen=True)
class Ticked:
    """Time passes. ``flag``: an off flag exists; ``both``: both do."""

    now_s: float
    flag: bool
    both: bool = True
    reason: str = ""


Event = Union[OrderCame, TestPassed, ConfirmCame, RevertCame, OffCame, ClearCame, Ticked]


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


def recover(durable: Durable, boot_id: str, flag: bool) -> Transition:
    """Return where a starting agent stands. Unconfirmed is undone; damaged state is userspace."""
    order = durable.record_order
    epoch = max(durable.epoch, durable.intent.epoch if durable.intent else 0, order.epoch if order else 0)
    state = State(durable.record_status, order, epoch, reason=durable.record_reason, latched=flag, flag_seen=flag)
    committed = durable.record_status == "committed"
    if durable.intent is not None and not (committed and order is not None and order.key == durable.intent.key):
        reason = "agent_restarted" if durable.intent_boot_id == boot_id else "rebooted"
        state = replace(state, status="committed", order=durable.intent)
        return _reverted(state, reason)
    if {"intent.json", "order.json"} & set(durable.damaged):
        return _reverted(replace(state, status="committed"), "state_damaged")
    if flag and state.status == "committed" and order is not None and order.phase != USERSPACE:
        return _reverted(state, "off")
    return Transition(state, (), (SyncMode(), DropIntent()))


def step(state: State, event: Event) -> Transition:
    """Return the transition for ``event``. Raises :class:`RefusedError` with the state unchanged."""
    if isinstance(event, Ticked):
        return _ticked(state, event)
    if isinstance(event, OffCame):
        return _off(state, event.reason)
    if isinstance(event, RevertCame):
        if event.order is not None and (state.status != "pending" or state.order != event.order):
            return Transition(state)
        return _reverted(state, event.reason)
    if isinstance(event, OrderCame):
        return _ordered(state, event)
    if isinstance(event, TestPassed):
        if state.status != "pending" or state.order != event.order:
            raise RefusedError(
                "apply_failed", f"order {event.order.id} is no longer pending: {state.reason or 'replaced'}"
            )
        return Transition(replace(state, tested=True))
    if isinstance(event, ConfirmCame):
        return _confirmed(state, event)
    return Transition(replace(state, latched=False, flag_seen=False), (DropFlags(),))


def _ordered(state: State, event: OrderCame) -> Transition:
    order = event.order
    if order.epoch < state.epoch:
        raise RefusedError(
            "stale_epoch", f"epoch {order.epoch} is older than {state.epoch}; take the rollout's current epoch"
        )
    if state.order is not None and order.key == state.order.key:
        if order != state.order:
            raise RefusedError("bad_order", f"order {order.id} came again with other content; use a new id")
        return Transition(state)
    if order.epoch == state.epoch and state.status == "pending":
        held = state.order.id if state.order else "?"
        raise RefusedError("order_pending", f"order {held} of the same epoch is pending; confirm or revert it first")
    if order.phase != USERSPACE:
        if event.flag or state.latched:
            raise RefusedError("off_latched", "the off flag is set; find out why, then `ktls-agent clear` as root")
        if not event.ktls:
            raise RefusedError(
                "no_ktls",
                "this kernel does not offer TLS: 'tls' is not in /proc/sys/net/ipv4/tcp_available_ulp;"
                " load it with `modprobe tls`",
            )
    deadline = event.now_s + order.lease_s
    after = State("pending", order, order.epoch, deadline, False, None, state.latched, state.flag_seen)
    return Transition(after, (PutEpoch(order.epoch), PutIntent(order, deadline)), (SyncMode(), SelfTest(order)))


def _confirmed(state: State, event: ConfirmCame) -> Transition:
    order = state.order
    if order is None or order.key != (event.id, event.epoch):
        raise RefusedError("wrong_order", f"order {event.id} of epoch {event.epoch} is not in force; read status")
    if state.status == "committed":
        return Transition(state)
    if state.status != "pending":
        raise RefusedError("not_pending", f"order {order.id} is {state.status} ({state.reason}); send a new order")
    if order.phase != USERSPACE and (state.latched or event.flag):
        raise RefusedError("off_latched", "the off flag is set; the order will not be confirmed")
    if state.deadline_s is None or event.now_s >= state.deadline_s:
        raise RefusedError("lease_expired", f"the lease of order {order.id} is over; send a new order")
    if not state.tested:
        raise RefusedError("not_ready", f"the self-test of order {order.id} is still running; confirm after it")
    after = replace(state, status="committed", deadline_s=None)
    return Transition(after, (PutRecord("committed", order),), (DropIntent(),))


def _reverted(state: State, reason: str) -> Transition:
    if state.status not in ("pending", "committed"):
        return Transition(state, (), (SyncMode(),))
    after = replace(state, status="reverted", deadline_s=None, tested=False, reason=reason)
    return Transition(after, (), (SyncMode(), PutRecord("reverted", state.order, reason), DropIntent()))


def _off(state: State, reason: str) -> Transition:
    flags = PutFlags(reason)
    latched = replace(state, latched=True)
    if state.order is None or state.order.phase == USERSPACE or state.status not in ("pending", "committed"):
        return Transition(latched, (), (flags, SyncMode()))
    undone = _reverted(latched, f"off: {reason}" if reason else "off")
    return Transition(undone.state, (), (flags, *undone.follow))


def _ticked(state: State, event: Ticked) -> Transition:
    if event.flag and not state.latched:
        off = _off(state, event.reason)
        # An order for userspace outlives the flag, but not its lease.
        return _expire(replace(off.state, flag_seen=True), event.now_s, off.follow)
    if event.flag:
        follow: tuple[Effect, ...] = () if event.both else (PutFlags(event.reason),)
        seen = state if state.flag_seen else replace(state, flag_seen=True)
        return _expire(seen, event.now_s, follow)
    if state.latched and state.flag_seen:  # both were removed by hand: nothing is switched on by that
        return _expire(replace(state, latched=False, flag_seen=False), event.now_s, ())
    if state.latched:  # off was ordered, but no flag could be written yet
        return _expire(state, event.now_s, (PutFlags(state.reason or "off"),))
    return _expire(state, event.now_s, ())


def _expire(state: State, now_s: float, follow: tuple[Effect, ...]) -> Transition:
    if state.status == "pending" and state.deadline_s is not None and now_s >= state.deadline_s:
        expired = _reverted(state, "lease_expired")
        return Transition(expired.state, (), (*follow, *expired.follow))
    return Transition(state, (), follow)
