# SPDX-License-Identifier: Apache-2.0
"""A small world around the order machine, for an exhaustive search: a disk, a sidecar, the lease timer, a boot check.

The machine in it is the real one. Around it is what ``core`` and ``ktls-off`` do, without their waiting: one effect
is one step, and between any two steps the agent may be killed or frozen, the power or a write may fail, time may pass,
and somebody may ask for userspace. Time is in ticks: both guardians look once a tick.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from ktls_agent.machine import (
    USERSPACE,
    ArmTimer,
    ConfirmCame,
    DisarmTimer,
    DropIntent,
    DropLapsed,
    Durable,
    Effect,
    Event,
    ExtendCame,
    OffCame,
    OffloadBack,
    OffloadOff,
    OffloadOn,
    Order,
    OrderCame,
    PutEpoch,
    PutFlags,
    PutIntent,
    PutRecord,
    RefusedError,
    RevertCame,
    SelfTest,
    State,
    SyncMode,
    Ticked,
    Transition,
    Undo,
    recover,
    step,
)
from ktls_agent.machine import TestPassed as SelfTestPassed

PLAN = "0" * 64
LEASE = 2.0
_CARDS = (OffloadOn, OffloadOff, OffloadBack)
_WRITES = (PutEpoch, PutIntent, DropIntent, PutRecord, PutFlags, DropLapsed)

Step = Callable[[State, Event], Transition]
Recover = Callable[[Durable, str, bool, bool], Transition]


class BrokenPromiseError(Exception):
    """An invariant does not hold; the message has the way there."""


@dataclass(frozen=True)
class PutLease:
    """The second half of PutIntent: another file, so another moment to die in."""

    intent: PutIntent


@dataclass(frozen=True)
class DropIntentFile:
    """The second half of DropIntent."""


Micro = Effect | PutLease | DropIntentFile


@dataclass(frozen=True)
class Disk:
    """What survives everything."""

    epoch: int = 0
    intent: Order | None = None
    intent_boot: int = 0
    lease: tuple[Order, float, int] | None = None  # order, deadline, boot
    record: tuple[str, Order | None] = ("none", None)
    flag: bool = False


@dataclass(frozen=True)
class Work:
    """A verb under way: what is still to prepare, and what is in force after it."""

    verb: str
    before: State
    transition: Transition
    left: tuple[Micro, ...]
    applying: bool = False


@dataclass(frozen=True)
class World:
    """One host at one moment. ``agent`` is None while its process is dead."""

    agent: State | None = field(default_factory=State)
    disk: Disk = field(default_factory=Disk)
    work: Work | None = None
    owed: tuple[Micro, ...] = ()
    mode: str = USERSPACE
    cards: bool = False
    on_for: Order | None = None
    lapsed: bool = False
    flag: bool = False
    armed: bool = False
    frozen: bool = False
    taken_back: bool = False
    now: float = 0.0
    boot: int = 1
    faults: int = 0
    used: frozenset[str] = frozenset()
    off_done: bool = False
    off_asked: bool = False
    confirmed: frozenset[str] = frozenset()
    best_epoch: int = 0


def _plain(state: State) -> State:
    """Drop what decides nothing, so that the search meets fewer worlds."""
    return replace(state, reason=None, revert=None, since_s=None if state.status != "pending" else state.since_s)


class Model:
    """The moves of a world. ``step`` and ``recover`` are the machine, or a broken one to see that it is found out."""

    def __init__(
        self,
        verbs: str,
        faults: int = 2,
        until: float = 3.0,
        step: Step = step,
        recover: Recover = recover,
        phases: tuple[str, str] = ("tx", "tx"),
    ) -> None:
        """Allow these ``verbs``, each once (confirm as often as there are orders), ``faults`` and ticks of time.

        ``phases``: of the first and of the second order.
        """
        first, second = phases
        self._orders = (
            Order("first", 1, first, LEASE, PLAN),
            Order("second", 2, second, LEASE, PLAN),
            Order("stale", 1, first, LEASE, PLAN),
        )
        self._spent = frozenset({"first", "second", "stale", "confirm", "extend", "off", "revert"} - set(verbs.split()))
        self.timer_works = True
        self._step = step
        self._recover = recover
        self._faults = faults
        self._until = until

    def search(self, limit: int = 10**7) -> int:
        """Look at every world that can be reached. Returns their number; raises BrokenPromiseError."""
        start = World(used=self._spent)
        came: dict[World, tuple[World | None, str]] = {start: (None, "start")}
        todo = deque([start])
        while todo:
            world = todo.popleft()
            for name, after in self.moves(world):
                if after in came:
                    continue
                came[after] = (world, name)
                problem = broken(after)
                if problem:
                    raise BrokenPromiseError(f"{problem}: {' > '.join(_way(came, after))}")
                todo.append(after)
                if len(came) > limit:
                    raise RuntimeError("the model has grown too large")
        return len(came)

    def moves(self, world: World) -> Iterator[tuple[str, World]]:
        """Yield everything that can happen next, with its name."""
        if world.now < self._until:
            yield "time", self._time(world)
        if world.agent is None:
            yield "start", self._start(world)
        elif world.frozen:
            yield "thaw", replace(world, frozen=False)
        else:
            yield from self._running(world)
        if world.faults < self._faults:
            yield from self._accidents(replace(world, faults=world.faults + 1))

    # Accidents

    def _accidents(self, world: World) -> Iterator[tuple[str, World]]:
        dead = replace(world, agent=None, work=None, owed=(), frozen=False, taken_back=False)
        if world.agent is not None:
            yield "kill", dead
            if not world.frozen:
                yield "freeze", replace(world, frozen=True)
        # Power: what was in memory and in /run is gone, and the boot check comes before the datapath.
        lapsed = world.disk.lease is not None
        order = world.disk.record[1]
        driver = order is not None and order.phase == "tx"  # a driver that comes up with its features on
        yield (
            "reboot",
            replace(
                dead,
                boot=world.boot + 1,
                lapsed=lapsed,
                flag=False,
                armed=False,
                mode=USERSPACE,
                on_for=None,
                cards=driver,
            ),
        )

    # Time

    def _time(self, world: World) -> World:
        world = replace(world, now=world.now + 1)
        lease = world.disk.lease
        if self.timer_works and world.armed and lease is not None and (lease[2] != world.boot or world.now >= lease[1]):
            world = replace(world, lapsed=True, mode=USERSPACE, on_for=None, cards=False)
        if world.agent is None or world.frozen:
            return world
        world = self._look(world)
        assert world.agent is not None
        return self._set_mode(world, world.agent)  # the watch of the sidecar

    def _look(self, world: World) -> World:
        assert world.agent is not None
        flag = world.flag or world.disk.flag
        event = Ticked(world.now, flag, world.flag and world.disk.flag, "", world.lapsed)
        return self._enter(world, self._step(world.agent, event))

    # The agent

    def _start(self, world: World) -> World:
        disk = world.disk
        durable = Durable(disk.epoch, disk.intent, str(disk.intent_boot), disk.record[0], disk.record[1])
        flag = world.flag or disk.flag
        return self._enter(world, self._recover(durable, str(world.boot), flag, world.lapsed))

    def _running(self, world: World) -> Iterator[tuple[str, World]]:
        state = world.agent
        assert state is not None
        if world.owed:
            head, *rest = world.owed
            if isinstance(head, _CARDS):  # what is owed goes by the state of that moment
                head = OffloadOn() if state.wanted == "hw" else OffloadOff()
            yield f"disk:{_name(head)}", _off_done(self._carry_out(replace(world, owed=tuple(rest)), head))
            if world.faults < self._faults:
                yield f"disk fails:{_name(head)}", self._owed_fails(replace(world, faults=world.faults + 1))
        if world.work is not None:
            yield from self._working(world, world.work)
        elif not any(isinstance(effect, Undo) for effect in world.owed):
            yield from self._verbs(world, state)
        if "off" not in world.used:
            used = replace(world, used=world.used | {"off"}, taken_back=True, off_asked=True)
            yield "off", _off_done(self._enter(used, self._step(state, OffCame("x"))))
        if "revert" not in world.used:
            used = replace(world, used=world.used | {"revert"}, taken_back=True)
            yield "revert", self._enter(used, self._step(state, RevertCame("x")))

    def _verbs(self, world: World, state: State) -> Iterator[tuple[str, World]]:
        for order in self._orders:
            if order.id not in world.used and not (order.id == "stale" and world.best_epoch < 2):
                used = replace(world, used=world.used | {order.id}, taken_back=False)
                flag = world.flag or world.disk.flag
                began = self._begin(used, order.id, state, OrderCame(order, world.now, flag, True))
                if began is not None:
                    yield f"order {order.id}", began
        if state.order is None or state.status != "pending":
            return
        flag = world.flag or world.disk.flag
        began = self._begin(world, "confirm", state, ConfirmCame(*state.order.key, world.now, flag))
        if began is not None and "confirm" not in world.used:
            yield "confirm", replace(began, confirmed=world.confirmed | {state.order.id})
        if "extend" not in world.used:
            used = replace(world, used=world.used | {"extend"})
            began = self._begin(used, "extend", state, ExtendCame(*state.order.key, LEASE, world.now))
            if began is not None:
                yield "extend", began

    def _begin(self, world: World, verb: str, state: State, event: Event) -> World | None:
        try:
            transition = self._step(state, event)
        except RefusedError:
            return None
        if transition.state is state:
            return None
        return replace(world, work=Work(verb, state, transition, tuple(_micro(transition.prepare))))

    def _working(self, world: World, work: Work) -> Iterator[tuple[str, World]]:
        if not work.left:
            yield f"{work.verb}: done", self._in_force(world, work)
            return
        head, *rest = work.left
        after = replace(world, work=replace(work, left=tuple(rest)))
        if work.applying:
            yield f"{work.verb}: {_name(head)}", self._apply(after, head)
            if isinstance(head, OffloadOn) and world.faults < self._faults:
                failed = replace(world, work=None, faults=world.faults + 1)
                yield f"{work.verb}: OffloadOn fails", self._not_applied(failed)
                yield f"{work.verb}: OffloadOn fails late", self._not_applied(self._carry_out(failed, head))
            return
        if work.verb in ("first", "second", "stale"):
            looked = self._look(world)
            if looked.agent != work.before or looked.taken_back:
                yield f"{work.verb}: overtaken", self._withdraw(replace(looked, work=None))
                return
        if isinstance(head, (*_WRITES, PutLease)) and world.owed:
            return  # what is owed comes first
        yield f"{work.verb}: {_name(head)}", self._carry_out(after, head)
        if world.faults >= self._faults:
            return
        failed = replace(world, work=None, faults=world.faults + 1)
        yield f"{work.verb}: {_name(head)} fails", self._prepare_failed(failed, head, work)
        if isinstance(head, (PutIntent, PutLease, ArmTimer)):
            # It has happened, and was reported as a failure: fsync(2) of the directory, or an answer that got lost.
            happened = self._carry_out(failed, head)
            yield f"{work.verb}: {_name(head)} fails late", self._prepare_failed(happened, head, work)

    def _prepare_failed(self, world: World, head: Micro, work: Work) -> World:
        return world if work.verb == "confirm" else self._withdraw(world)

    def _withdraw(self, world: World) -> World:
        """What ``Agent._withdraw`` does; here in one step, and its writes may fail like any that are owed."""
        state = world.agent
        assert state is not None
        if state.wanted == "hw":
            world = replace(world, owed=(*world.owed, OffloadOn()))
        if state.status == "pending" and state.order is not None and state.deadline_s is not None:
            again = PutIntent(state.order, state.deadline_s)
            return (
                replace(world, owed=(*world.owed, *_micro((again,))))
                if not world.owed
                else self._enter(world, self._step(state, RevertCame("cannot write", state.order)))
            )
        return replace(world, owed=(*world.owed, *_micro((DropIntent(), DisarmTimer()))))

    def _in_force(self, world: World, work: Work) -> World:
        transition, state = work.transition, work.transition.state
        assert world.agent is not None
        if work.verb in ("confirm", "extend"):
            if world.agent != work.before:
                return (
                    replace(world, work=None) if work.verb == "confirm" else self._withdraw(replace(world, work=None))
                )
            return self._enter(replace(world, work=None), transition)
        looked = self._look(world)
        late = state.deadline_s is not None and looked.now >= state.deadline_s
        if looked.agent != work.before or looked.taken_back or late:
            return self._withdraw(replace(looked, work=None))
        assert state.order is not None
        applying = replace(work, applying=True, left=tuple(_micro(transition.follow)))
        best = max(looked.best_epoch, state.order.epoch)
        return replace(looked, agent=_plain(state), work=applying, best_epoch=best)

    def _not_applied(self, world: World) -> World:
        assert world.agent is not None
        if world.agent.wanted != "hw":
            return replace(world, owed=(*world.owed, OffloadBack()))
        return self._enter(world, self._step(world.agent, RevertCame("nic_failed", world.agent.order)))

    def _apply(self, world: World, head: Micro) -> World:
        state = world.agent
        assert state is not None
        if isinstance(head, OffloadOn) and state.wanted != "hw":
            # Its order has gone, and what took it back was there first: the agent sees that, and asks once more.
            late = self._carry_out(world, head)
            return replace(late, work=None, owed=(*late.owed, OffloadBack()))
        if isinstance(head, SyncMode):
            world = self._set_mode(world, state)
        elif isinstance(head, SelfTest):
            try:
                world = replace(world, agent=_plain(self._step(state, SelfTestPassed(head.order)).state))
            except RefusedError:
                return replace(world, work=None)
        else:
            world = self._carry_out(world, head)
        if world.work is not None and not world.work.left:
            world = replace(world, work=None)
        return world

    def _enter(self, world: World, transition: Transition) -> World:
        """What ``Agent._enter`` does: the datapath at once, the disk after it."""
        world = replace(world, agent=transition.state)
        owed: list[Micro] = []
        for effect in transition.follow:
            if isinstance(effect, SyncMode):
                assert world.agent is not None
                world = self._set_mode(world, world.agent)
            elif isinstance(effect, PutFlags):
                world = replace(self._userspace(world), flag=True)
                owed.insert(0, effect)  # a flag waits for no datapath
            elif isinstance(effect, (*_WRITES, *_CARDS, DisarmTimer, Undo)):
                owed.extend(_micro((effect,)))
        assert world.agent is not None
        waiting = world.owed + tuple(effect for effect in owed if effect not in world.owed)
        return replace(world, agent=_plain(world.agent), owed=waiting)

    # Hands

    def _set_mode(self, world: World, state: State) -> World:
        if state.wanted == USERSPACE:
            return self._userspace(world)
        if world.flag or world.disk.flag or world.lapsed:
            return world
        return replace(world, mode=state.wanted, on_for=state.order)

    def _userspace(self, world: World) -> World:
        return replace(world, mode=USERSPACE, on_for=None)

    def _owed_fails(self, world: World) -> World:
        head = world.owed[0]
        if isinstance(head, Undo):
            by_mark = replace(world, lapsed=True, mode=USERSPACE, on_for=None)
            return replace(by_mark, owed=(*world.owed[1:], OffloadBack()))  # what failed is tried again
        if isinstance(head, _CARDS):
            return world
        if isinstance(head, PutFlags):
            return replace(world, owed=world.owed[1:])  # the next tick wants it again
        if isinstance(head, PutRecord) and head.status == "reverted":
            disk = replace(world.disk, record=("none", None))  # it is removed instead
            return replace(world, owed=world.owed[1:], disk=disk)
        return world

    def _set_cards(self, world: World, effect: Micro) -> World:
        on = isinstance(effect, OffloadOn)
        flagged = world.flag or world.disk.flag or world.lapsed
        return world if on and flagged else replace(world, cards=on)

    def _carry_out(self, world: World, effect: Micro) -> World:
        disk = world.disk
        if isinstance(effect, PutEpoch):
            disk = replace(disk, epoch=effect.epoch)
        elif isinstance(effect, PutIntent):
            disk = replace(disk, intent=effect.order, intent_boot=world.boot)
        elif isinstance(effect, PutLease):
            disk = replace(disk, lease=(effect.intent.order, effect.intent.deadline_s, world.boot))
        elif isinstance(effect, DropIntent):
            disk = replace(disk, lease=None)
        elif isinstance(effect, DropIntentFile):
            disk = replace(disk, intent=None)
        elif isinstance(effect, PutRecord):
            disk = replace(disk, record=(effect.status, effect.order))
        elif isinstance(effect, PutFlags):
            disk = replace(disk, flag=True)
        elif isinstance(effect, DropLapsed):
            return replace(world, lapsed=False)
        elif isinstance(effect, Undo):
            world = replace(world, cards=False)  # "off", or "back" to what was before: off
            return self._set_mode(world, world.agent) if world.agent else world
        elif isinstance(effect, _CARDS):
            return self._set_cards(world, effect)
        elif isinstance(effect, ArmTimer):
            return replace(world, armed=True)
        elif isinstance(effect, DisarmTimer):
            needed = world.agent is not None and (world.agent.status == "pending" or _arming(world.work))
            return world if needed else replace(world, armed=False)
        return replace(world, disk=disk)


def _arming(work: Work | None) -> bool:
    return work is not None and work.verb in ("first", "second", "stale") and not work.applying


def _micro(effects: tuple[Effect, ...]) -> Iterator[Micro]:
    for effect in effects:
        yield effect
        if isinstance(effect, PutIntent):
            yield PutLease(effect)
        elif isinstance(effect, DropIntent):
            yield DropIntentFile()


def _off_done(world: World) -> World:
    """Note when an off has been answered: both flags are there."""
    return replace(world, off_done=True) if world.off_asked and world.flag and world.disk.flag else world


def broken(world: World) -> str:
    """Return which promise does not hold, or nothing."""
    disk = world.disk
    committed = disk.record[0] == "committed" and disk.record[1] is not None and disk.record[1].phase != USERSPACE
    if world.mode != USERSPACE:
        if disk.intent is None and not committed:
            return "kTLS, and nothing on disk would undo it"
        unconfirmed = not (committed and disk.record[1] == world.on_for)
        lease = disk.lease
        if unconfirmed and world.on_for is not None and world.on_for.id not in world.confirmed:
            if lease is None and not committed:
                return "unconfirmed kTLS without a lease"
            if lease is not None and world.now > lease[1]:
                return "unconfirmed kTLS after its deadline and a tick"
            if lease is not None and not world.armed:
                return "unconfirmed kTLS without its second guardian"
        if world.flag or disk.flag or world.lapsed:
            return "kTLS under a flag"
        if world.off_done:
            return "kTLS after off"
    agent = world.agent
    if world.cards and agent is not None and not (world.owed or world.work or world.frozen) and agent.wanted != "hw":
        return f"the cards are on in phase {agent.wanted}, and nobody is about to take that back"
    # Whatever order it is, an agent that finds it looks after the cards: off, or back to what was before.
    if world.cards and disk.intent is None and disk.record[1] is None and not (agent is not None and world.owed):
        return "the cards are on, and nothing on disk would take that back"
    if committed and disk.record[1] is not None and disk.record[1].id not in world.confirmed:
        return "committed, and nobody confirmed it"
    if agent is not None and agent.wanted != USERSPACE and agent.order and agent.order.epoch < world.best_epoch:
        return "a stale epoch won"
    if world.agent is not None and world.agent.epoch < world.best_epoch:
        return "the high-water mark was forgotten"
    if world.off_asked and world.agent is not None and world.agent.wanted != USERSPACE and world.flag:
        return "off was asked for, and the agent wants kTLS"
    return ""


def _way(came: dict[World, tuple[World | None, str]], world: World | None) -> list[str]:
    names: list[str] = []
    while world is not None:
        world, name = came[world]
        names.append(name)
    return names[::-1]


def _name(effect: Micro) -> str:
    return type(effect).__name__


def rearranged(transition: Transition, prepare: tuple[Effect, ...], follow: tuple[Effect, ...]) -> Transition:
    """Return ``transition`` with its effects in another order, for a machine that is to be found out."""
    return dataclasses.replace(transition, prepare=prepare, follow=follow)
