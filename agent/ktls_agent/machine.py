# SPDX-License-Identifier: Apache-2.0
"""The order machine: pure. ``step(state, event)`` returns the next state and what must be done for it.

Two directions, two rules. Towards kTLS, everything in ``prepare`` must be durable before the new state is in force;
if it fails, nothing has happened. Towards userspace, the new state is in force at once and ``follow`` is carried out
after it, each part as well as the host allows: nothing may stop it.
"""

from __future__ import annotations

from dataclasses import replace

from .effects import (
    ArmTimer,
    DisarmTimer,
    DropFlags,
    DropIntent,
    DropLapsed,
    Effect,
    LoadModule,
    OffloadBack,
    OffloadOff,
    OffloadOn,
    PutEpoch,
    PutFlags,
    PutIntent,
    PutRecord,
    PutRevert,
    SelfTest,
    SyncMode,
    Transition,
    Undo,
)
from .events import (
    CancelCame,
    ClearCame,
    ConfirmCame,
    Event,
    ExtendCame,
    OffCame,
    OrderCame,
    RevertCame,
    TestPassed,
    Ticked,
    UndoTried,
)
from .orders import EPOCH_MAX, HW, LEASE_MAX_S, LEASE_MIN_S, PHASES, USERSPACE, Order, RefusedError
from .state import UNDO_TRIES, Durable, Previous, Revert, State, StepResult

__all__ = [
    "EPOCH_MAX", "HW", "LEASE_MAX_S", "LEASE_MIN_S", "PHASES", "UNDO_TRIES", "USERSPACE",
    "ArmTimer", "CancelCame", "ClearCame", "ConfirmCame", "DisarmTimer", "DropFlags", "DropIntent", "DropLapsed",
    "Durable", "Effect", "Event", "ExtendCame", "LoadModule", "OffCame", "OffloadBack", "OffloadOff", "OffloadOn",
    "Order", "OrderCame", "Previous", "PutEpoch", "PutFlags", "PutIntent", "PutRecord", "PutRevert", "RefusedError",
    "Revert", "RevertCame", "SelfTest", "State", "StepResult", "SyncMode", "TestPassed", "Ticked", "Transition", "Undo",
    "UndoTried", "recover", "step",
]  # fmt: skip


def recover(durable: Durable, boot_id: str, flag: bool, lapsed: bool = False) -> Transition:
    """Return where a starting agent stands. Unconfirmed is undone; damaged state is userspace.

    ``lapsed``: the lease timer or the boot check has been at work meanwhile. What it took back stays back, even if a
    confirmation was written that nobody has been told of.
    """
    order = durable.record_order
    epoch = max(durable.epoch, durable.intent.epoch if durable.intent else 0, order.epoch if order else 0)
    state = State(
        durable.record_status, order, epoch, reason=durable.record_reason, latched=flag, flag_seen=flag,
        stuck=durable.stuck,
    )  # fmt: skip
    committed = durable.record_status == "committed"
    if durable.intent is not None and not (committed and order is not None and order.key == durable.intent.key):
        here = durable.intent_boot_id == boot_id
        reason = ("lease_expired" if lapsed else "agent_restarted") if here else "rebooted"
        state = replace(state, status="committed", order=durable.intent)
        return _reverted(state, reason)
    if {"intent.json", "order.json"} & set(durable.damaged):
        return _reverted(replace(state, status="committed"), "state_damaged")
    if committed and order is not None and order.phase != USERSPACE:
        if flag:
            return _reverted(state, "off")
        if lapsed:
            return _reverted(state, "lease_expired")
    if durable.record_status == "reverted":
        return _resumed(state, durable.revert)
    return Transition(state, (), (*_cards(state), SyncMode(), DropIntent(), DisarmTimer()))


def _cards(state: State) -> tuple[Effect, ...]:
    """Return what network cards must be, where an agent starts under an order: a boot gives them their drivers' way."""
    if state.order is None:
        return ()
    if state.wanted == HW:
        return (OffloadOn(),)
    return (OffloadBack(),) if state.wanted == USERSPACE else (OffloadOff(),)


def _resumed(state: State, found: Revert | None) -> Transition:
    """Go on with a revert whose outcome is durable, but perhaps not all of its steps."""
    revert = found
    if revert is None or (revert.order and revert.order.key) != (state.order and state.order.key):
        revert = Revert(state.order, state.reason or "")
    status = "stuck" if revert.failed and revert.tries >= UNDO_TRIES else "reverted"
    work: Effect = Undo() if revert.open else SyncMode()
    return Transition(replace(state, status=status, revert=revert), (), (work, DropIntent(), DisarmTimer()))


def step(state: State, event: Event) -> Transition:
    """Return the transition for ``event``. Raises :class:`RefusedError` with the state unchanged."""
    if isinstance(event, Ticked):
        return _ticked(state, event)
    if isinstance(event, OffCame):
        return _off(state, event.reason)
    if isinstance(event, RevertCame):
        if event.order is not None and (state.status != "pending" or state.order != event.order):
            return Transition(state)
        return _reverted(state, event.reason, event.unload)
    if isinstance(event, CancelCame):
        return _cancelled(state, event)
    if isinstance(event, UndoTried):
        return _undone(state, event)
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
    if isinstance(event, ExtendCame):
        return _extended(state, event)
    return _cleared(state)


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
    # An order for userspace reverts to userspace: it needs no second guardian, and no lever may refuse it.
    guardian: tuple[Effect, ...] = ()
    levers: tuple[Effect, ...] = ()
    if order.phase != USERSPACE:
        _refuse_ktls(state, event)
        guardian = (ArmTimer(),)
        levers = () if event.ktls else (LoadModule(),)
        if order.phase != HW:
            levers = (*levers, OffloadOff())
    deadline = event.now_s + order.lease_s
    after = State(
        status="pending", order=order, epoch=order.epoch, deadline_s=deadline, since_s=event.now_s,
        connection=event.connection, latched=state.latched, flag_seen=state.flag_seen, stuck=state.stuck,
    )  # fmt: skip
    previous = Previous(state.status, state.wanted, state.order, state.epoch)
    intent = PutIntent(order, deadline, event.now_s, previous)
    # This order is the feature: what will undo it is there, twice, before anything is done.
    prepare = (PutEpoch(order.epoch), intent, *guardian, DropLapsed(), *levers)
    return Transition(after, prepare, _apply(order, state))


def _apply(order: Order, before: State) -> tuple[Effect, ...]:
    """Return what follows from an order that is in force: a card is on before anybody uses it, and off after."""
    if order.phase == HW:
        return (OffloadOn(), SyncMode(), SelfTest(order))
    if order.phase == USERSPACE and before.wanted == HW:
        return (SyncMode(), OffloadBack(), SelfTest(order))
    return (SyncMode(), SelfTest(order))


def _refuse_ktls(state: State, event: OrderCame) -> None:
    if event.flag or state.latched:
        raise RefusedError("off_latched", "the off flag is set; find out why, then `ktls-agent clear` as root")
    if state.stuck:
        what = ", ".join(state.revert.failed) if state.revert else ""
        message = f"a revert is stuck{f' at {what}' if what else ''}; repair that, then `ktls-agent clear` as root"
        raise RefusedError("stuck", message)
    if not event.ktls and not event.loadable:
        raise RefusedError(
            "no_ktls",
            "this kernel does not offer TLS: 'tls' is not in /proc/sys/net/ipv4/tcp_available_ulp;"
            " load it with `modprobe tls`",
        )


def _the_pending(state: State, order_id: str, epoch: int) -> Order:
    """Return the order in force, if it is this one."""
    order = state.order
    if order is None or order.key != (order_id, epoch):
        raise RefusedError("wrong_order", f"order {order_id} of epoch {epoch} is not in force; read status")
    return order


def _confirmed(state: State, event: ConfirmCame) -> Transition:
    order = _the_pending(state, event.id, event.epoch)
    if state.status == "committed":
        return Transition(state)
    if state.status != "pending":
        raise RefusedError("not_pending", f"order {order.id} is {state.status} ({state.reason}); send a new order")
    if 0 < event.connection <= state.connection:
        message = "the order came over this connection or a later one; a confirmation must come over a new one"
        raise RefusedError("same_connection", message)
    if order.phase != USERSPACE and (state.latched or event.flag):
        raise RefusedError("off_latched", "the off flag is set; the order will not be confirmed")
    if state.deadline_s is None or event.now_s >= state.deadline_s:
        raise RefusedError("lease_expired", f"the lease of order {order.id} is over; send a new order")
    if not state.tested:
        raise RefusedError("not_ready", f"the self-test of order {order.id} is still running; confirm after it")
    after = replace(state, status="committed", deadline_s=None, since_s=None, connection=0)
    return Transition(after, (PutRecord("committed", order),), (DropIntent(), DisarmTimer()))


def _extended(state: State, event: ExtendCame) -> Transition:
    order = _the_pending(state, event.id, event.epoch)
    if state.status != "pending" or state.deadline_s is None or state.since_s is None:
        raise RefusedError("not_pending", f"order {order.id} is {state.status}; only a pending one has a lease")
    if event.now_s >= state.deadline_s:
        raise RefusedError("lease_expired", f"the lease of order {order.id} is over; send a new order")
    deadline = event.now_s + event.lease_s
    if deadline > state.since_s + LEASE_MAX_S:
        message = f"order {order.id} would hold unconfirmed for more than {LEASE_MAX_S:g} s; confirm or cancel it"
        raise RefusedError("lease_too_long", message)
    if deadline <= state.deadline_s:
        return Transition(state)
    after = replace(state, deadline_s=deadline)
    return Transition(after, (ArmTimer(), PutIntent(order, deadline, state.since_s)))


def _cancelled(state: State, event: CancelCame) -> Transition:
    order = _the_pending(state, event.id, event.epoch)
    if state.status == "committed":
        raise RefusedError("not_pending", f"order {order.id} is committed; use revert to undo it")
    if state.status != "pending":
        return Transition(state)
    return _reverted(state, "cancelled")


def _reverted(state: State, reason: str, unload: bool = False) -> Transition:
    if state.status not in ("pending", "committed"):
        if not unload:
            return Transition(state, (), (SyncMode(),))
        revert = Revert(state.order, state.reason or reason, True)
        return Transition(replace(state, revert=revert), (), (Undo(),))
    after = replace(
        state, status="reverted", deadline_s=None, since_s=None, connection=0, tested=False, reason=reason,
        revert=Revert(state.order, reason, unload),
    )  # fmt: skip
    return Transition(after, (), (Undo(), PutRecord("reverted", state.order, reason), DropIntent(), DisarmTimer()))


def _undone(state: State, event: UndoTried) -> Transition:
    if state.revert != event.revert or state.status not in ("none", "reverted", "stuck"):
        return Transition(state)  # another order, or another revert, has come meanwhile
    # Who has not answered has not failed: a slow host is not stuck.
    tries = event.revert.tries + (0 if event.waiting else 1)
    revert = replace(event.revert, tries=tries, steps=event.steps)
    after = replace(state, revert=revert)
    if revert.failed and not revert.open:
        after = replace(after, status="stuck", stuck=True)
    return Transition(after, (), (PutRevert(revert, after.stuck),))


def _cleared(state: State) -> Transition:
    after = replace(state, latched=False, flag_seen=False, stuck=False)
    if state.revert is None or not state.revert.failed:
        again: tuple[Effect, ...] = (PutRevert(state.revert, False),) if state.revert and state.stuck else ()
        return Transition(after, (DropFlags(),), again)
    revert = replace(state.revert, tries=0)
    after = replace(after, status="reverted" if state.status == "stuck" else state.status, revert=revert)
    return Transition(after, (DropFlags(),), (PutRevert(revert, False), Undo()))


def _off(state: State, reason: str) -> Transition:
    flags = PutFlags(reason)
    latched = replace(state, latched=True)
    if state.order is None or state.order.phase == USERSPACE or state.status not in ("pending", "committed"):
        return Transition(latched, (), (flags, SyncMode()))
    undone = _reverted(latched, f"off: {reason}" if reason else "off")
    return Transition(undone.state, (), (flags, *undone.follow))


def _ticked(state: State, event: Ticked) -> Transition:
    if event.stuck and not state.stuck:
        state = replace(state, stuck=True)
    if event.flag and not state.latched:
        off = _off(state, event.reason)
        # An order for userspace outlives the flag, but not its lease.
        return _expire(replace(off.state, flag_seen=True), event, off.follow)
    if event.flag:
        follow: tuple[Effect, ...] = () if event.both else (PutFlags(event.reason),)
        seen = state if state.flag_seen else replace(state, flag_seen=True)
        return _expire(seen, event, follow)
    if state.latched and state.flag_seen:  # both were removed by hand: nothing is switched on by that
        return _expire(replace(state, latched=False, flag_seen=False), event, ())
    if state.latched:  # off was ordered, but no flag could be written yet
        return _expire(state, event, (PutFlags(state.reason or "off"),))
    return _expire(state, event, ())


def _expire(state: State, event: Ticked, follow: tuple[Effect, ...]) -> Transition:
    over = state.status == "pending" and state.deadline_s is not None and event.now_s >= state.deadline_s
    # The other guardian was first.
    lapsed = event.lapsed and (state.status == "pending" or state.wanted != USERSPACE)
    if over or lapsed:
        expired = _reverted(state, "lease_expired")
        return Transition(expired.state, (), (*follow, *expired.follow))
    return Transition(state, (), follow)
