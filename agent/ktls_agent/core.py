# SPDX-License-Identifier: Apache-2.0
"""Carries out what the order machine says. Knows no sockets of its own: all I/O is handed in.

Disk work runs on one thread (:mod:`~ktls_agent.disk`), so that a slow disk cannot hold the event loop. The sidecar is
driven by level: whatever happened, it is brought to what the state wants now.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Callable

from ktls_host.datapath.model import RX, TX_RX, fulfils
from ktls_host.errors import KtlsError
from ktls_host.jsonsock import Peer

from .audit import Audit, NoAudit
from .disk import WRITES, Disk, why
from .experiments import Experiments
from .flags import FlagInfo, OffFlags
from .levers import Levers, no_levers
from .machine import (
    HW,
    USERSPACE,
    ArmTimer,
    CancelCame,
    ClearCame,
    ConfirmCame,
    DisarmTimer,
    DropFlags,
    DropIntent,
    DropLapsed,
    Effect,
    ExtendCame,
    LoadModule,
    OffCame,
    OffloadBack,
    OffloadOff,
    OffloadOn,
    Order,
    OrderCame,
    PutFlags,
    PutIntent,
    RefusedError,
    RevertCame,
    State,
    StepResult,
    SyncMode,
    TestPassed,
    Ticked,
    Transition,
    Undo,
    UndoTried,
    recover,
    step,
)
from .marks import Marks
from .orders import checked_lease
from .probe import ProbeResult
from .selftest import verdict
from .store import Store
from .undo import Undoer

_LOG = logging.getLogger(__name__)
PROBE_TIMEOUT_S = 15.0
WATCH_SIDECAR_EVERY_S = 1.0
FOLLOW_TIMEOUT_S = 4.0
CARDS_AGAIN_S = 5.0

SidecarCall = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
Refusal = Callable[[str], "Awaitable[KtlsError | None]"]
"""``refusal(phase)``: why the datapath cannot take the phase, asked before anything is changed."""
SelfTest = Callable[[float], ProbeResult]
Listener = Callable[[float, "dict[str, Any]", bool], None]
"""``heard(at_s, status, cut)``: the sidecar's status, when it came; ``cut``: what is counted by intervals ends here."""


def boottime() -> float:
    """Return CLOCK_BOOTTIME in seconds: it counts suspended time and ignores changes of the wall clock."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Return the kernel's id of this boot (random(4))."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as handle:
            return handle.read().strip()
    except OSError:
        return ""


def ktls_available(path: str = "/proc/sys/net/ipv4/tcp_available_ulp") -> bool:
    """Return whether the TLS upper-layer protocol is registered with TCP."""
    try:
        with open(path, encoding="ascii", errors="replace") as handle:
            return "tls" in handle.read().split()
    except OSError:
        return False


class Agent:
    """The order machine with its hands. All methods run on one event loop."""

    def __init__(
        self,
        store: Store,
        flags: OffFlags,
        sidecar: SidecarCall,
        self_test: SelfTest,
        clock: Callable[[], float] = boottime,
        boot: str | None = None,
        available: Callable[[], bool] = ktls_available,
        audit: Audit | None = None,
        levers: Levers | None = None,
        tls12_consent: bool = False,
        refusal: Refusal | None = None,
        by_marks: bool = True,
    ) -> None:
        """Take the parts; nothing runs before :meth:`start`. ``self_test(timeout_s)`` may block.

        ``tls12_consent``: whether phase hw moves new connections to TLS 1.2 with AES-GCM. ``by_marks``: whether what
        serves looks at the flags and marks by itself, as the sidecar does.
        """
        self.state = State()
        self.probe: ProbeResult | None = None
        self.sidecar_error: str | None = None
        self.clock = clock
        self.flags = flags
        self.marks = Marks(os.path.dirname(flags.run_path))
        self.audit: Audit = audit or NoAudit()
        self.experiments = Experiments()
        self.tls12_consent = tls12_consent
        self.ordered_at_s: float | None = None
        """When the order in force took effect; None when there is none, or when it was before this agent's start."""
        self._listeners: list[Listener] = []
        self._turning: asyncio.Future[Any] | None = None  # the sidecar is brought to the next block
        self._turn_again_s = float("-inf")
        self._store = store
        self._call_sidecar = sidecar
        self._refusal = refusal
        self._self_test = self_test
        self._boot = boot_id() if boot is None else boot
        self._available = available
        self._levers = levers or no_levers()
        self._by_marks = by_marks
        self._undoer = Undoer(self._levers, self.marks, self._sync, by_marks=by_marks)
        self._problems: dict[str, str] = {}
        self._disk = Disk(store, flags, self.marks, self._boot, self._problems)
        self._work = ThreadPoolExecutor(4, "ktls-work")
        self._helpers = ThreadPoolExecutor(3, "ktls-helper")  # one that hangs holds up neither sidecar nor probe
        self._switching = ThreadPoolExecutor(1, "ktls-switch")  # the datapath waits for no other question
        self._on_lock = asyncio.Lock()  # towards kTLS, one at a time; OFF never waits for it
        self._sidecar_lock = asyncio.Lock()
        self._timer_lock = asyncio.Lock()
        self._undo_lock = asyncio.Lock()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._watched_s = float("-inf")
        self._watching: asyncio.Future[Any] | None = None
        self._keeping: asyncio.Future[Any] | None = None
        self._clearing = False
        self._armed: bool | None = None  # not known: an agent before us may have done it
        self._intent: PutIntent | None = None  # of the pending order, as it is on disk
        self._touched = False  # the intent on disk may be another than that of the pending order
        self._applying: Order | None = None
        self._backs = 0  # how often something has asked for userspace
        self._undo_at_s = float("-inf")
        self._unrecorded: set[asyncio.Future[Any]] = set()  # reverts that are not written yet
        self._cards_owed = False  # network cards may not be what the state wants
        self._cards_at_s = float("-inf")
        self._cards_lock = asyncio.Lock()
        self._cards_coming: Order | None = None  # its datapath waits for them
        self._lease_kept = False  # a revert could not reach the datapath: the other guardian goes on

    # Life

    async def start(self) -> None:
        """Read what is durable and bring the host there: unconfirmed orders are undone first of all."""
        durable = await self._disk.run(self._store.load)
        for name in durable.damaged:
            self._problems[name] = f"{name} was damaged and is set aside beside it as {name}.corrupt-*; now userspace"
            _LOG.error("%s", self._problems[name])
        transition = recover(durable, self._boot, self._flag(), self.marks.lapsed())
        after = transition.state
        if after.status == "reverted" and durable.record_status != "reverted":
            self._note_revert(after)
        await self._settle(self._enter(transition))

    async def stop(self) -> None:
        """Undo what is pending (nobody would watch its lease) and let running work end."""
        if self.state.status == "pending":
            await self._settle(self._enter(step(self.state, RevertCame("agent_stopped"))))
        self.close()

    def close(self) -> None:
        """End the threads without waiting for what they still do."""
        for task in list(self._tasks):
            task.cancel()
        self._disk.close()
        for pool in (self._work, self._helpers, self._switching):
            pool.shutdown(wait=False)

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run blocking ``function`` away from the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._work, function, *args)

    async def in_helper_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run a call of a root helper, which may hang."""
        return await asyncio.get_running_loop().run_in_executor(self._helpers, function, *args)

    async def in_switch_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run the switch of the datapath, and nothing else."""
        return await asyncio.get_running_loop().run_in_executor(self._switching, function, *args)

    def hear(self, listener: Listener) -> None:
        """Tell ``listener`` of every status of the sidecar. It must be quick, and what it raises is its own."""
        self._listeners.append(listener)

    @property
    def problems(self) -> list[str]:
        """What an operator should know: damaged or unwritable state, a revert that is stuck."""
        found = [self._problems[name] for name in sorted(self._problems)]
        if self.state.stuck:
            failed = ", ".join(self.state.revert.failed) if self.state.revert else ""
            what = f" at {failed}" if failed else ""
            serves = "userspace TLS serves" if self._by_marks else "kernel TLS may serve"
            found.insert(0, f"STUCK{what}: {serves}; repair that, then `ktls-agent clear` as root")
        return found

    def revert_steps(self) -> list[dict[str, Any]]:
        """Return what the steps of the last revert came to: ours, and of the shell those that we did not take."""
        ours = self.state.revert.steps if self.state.revert else ()
        taken = {one.step for one in ours}
        shell = [one for one in self.marks.steps() if one.step not in taken]
        return [_shown(one, "agent") for one in ours] + [_shown(one, "ktls-off") for one in shell]

    # Verbs

    async def order(self, raw: object, peer: Peer | None = None) -> None:
        """Apply an order provisionally. Raises :class:`RefusedError`; then nothing of it is in force."""
        with self._audited("order", peer):
            order = Order.parse(raw)
            async with self._turn():
                self._look()
                await self._ordered(order, peer)

    async def confirm(self, order_id: object, epoch: object, peer: Peer | None = None) -> None:
        """Make the pending order durable. It must come over a connection that is newer than the order's."""
        with self._audited("confirm", peer):
            name, number = _checked_key("confirm", order_id, epoch)
            async with self._turn():
                before, transition = self._confirmation(name, number, peer)
                if transition.state is before:
                    return
                if await self._end_experiment("confirmed"):
                    before, transition = self._confirmation(name, number, peer)  # anything may have come meanwhile
                await self._prepare(transition, "the confirmation")
                self._look()  # the shell may have ended the lease while we wrote
                if self.state != before:
                    message = f"order {name} was reverted meanwhile: {self.state.reason}"
                    raise RefusedError("not_pending", message)
                _LOG.info("order %s epoch %d committed", name, number)
                self.audit.record("confirm", id=name, epoch=number, **_who(peer))
                self._intent = None
                await self._settle(self._enter(transition))

    def _confirmation(self, name: str, number: int, peer: Peer | None) -> tuple[State, Transition]:
        self._look()
        event = ConfirmCame(name, number, self.clock(), self._flag(), peer.connection if peer else 0)
        return self.state, step(self.state, event)

    async def extend(
        self,
        order_id: object,
        epoch: object,
        lease_s: object,
        peer: Peer | None = None,
        end_experiment: bool = False,
    ) -> None:
        """Let the pending order hold ``lease_s`` seconds from now on; never less long than before.

        Its experiment goes on, unless it is to end.
        """
        with self._audited("extend", peer):
            name, number = _checked_key("extend", order_id, epoch)
            lease = checked_lease(lease_s)
            async with self._turn():
                self._look()
                before = self.state
                transition = step(before, ExtendCame(name, number, lease, self.clock()))
                if end_experiment and await self._end_experiment("ended by an extension"):
                    self._look()
                    before = self.state
                    transition = step(before, ExtendCame(name, number, lease, self.clock()))
                if transition.state is before:
                    return
                try:
                    await self._prepare(transition, "the longer lease")
                except RefusedError:
                    await self._withdraw()
                    raise
                self._look()
                if self.state != before:
                    await self._withdraw()
                    message = f"order {name} was reverted meanwhile: {self.state.reason}"
                    raise RefusedError("not_pending", message)
                _LOG.info("order %s epoch %d holds %g s from now", name, number, lease)
                self.audit.record("extend", id=name, epoch=number, lease_s=lease, **_who(peer))
                await self._settle(self._enter(transition))

    async def cancel(self, order_id: object, epoch: object, peer: Peer | None = None) -> None:
        """Revert if this is the pending order. What is reverted already stays so."""
        with self._audited("cancel", peer):
            name, number = _checked_key("cancel", order_id, epoch)
            detail = {"id": name, "epoch": number, **_who(peer)}
            if self._applying is not None and self._applying.key == (name, number) and self._not_yet(name, number):
                self._backs += 1  # it is on its way; it will not arrive
                self.audit.record("cancel", **detail)
                return
            transition = step(self.state, CancelCame(name, number))
            if transition.state is self.state:
                return
            _LOG.warning("order %s cancelled", name)
            self.audit.record("cancel", **detail)
            await self._settle(self._enter(transition))

    async def revert(self, reason: str, unload: bool = False, peer: Peer | None = None) -> None:
        """Go back to userspace and undo the order, whatever is going on. ``unload``: the module too, if unused."""
        _LOG.warning("revert: %s", reason)
        self._backs += 1
        transition = step(self.state, RevertCame(reason, None, unload))
        self.audit.record("revert", reason=reason, order=_named(self.state), **_who(peer))
        await self._settle(self._enter(transition))

    async def off(self, reason: str, peer: Peer | None = None) -> None:
        """Write the off flags and switch the sidecar. Never refused; what did not work is in :attr:`problems`."""
        _LOG.warning("off: %s", reason)
        self._backs += 1
        tasks = self._enter(step(self.state, OffCame(reason)))
        self.audit.record("off", reason=reason, **_who(peer))
        await self._settle(tasks)

    async def clear(self, peer: Peer | None = None) -> None:
        """Remove the off flags, and try again what is stuck. Raises :class:`RefusedError`: clear_failed.

        Switches nothing on.
        """
        with self._audited("clear", peer):
            async with self._on_lock:
                self._clearing = True
                try:
                    await self._disk.write(DropFlags())
                    transition = step(self.state, ClearCame())
                    tasks = self._enter(transition)
                except OSError as error:
                    cure = f"remove {self.flags.run_path} and {self.flags.durable_path} as root"
                    raise RefusedError("clear_failed", f"an off flag stays ({why(error)}); {cure}") from error
                finally:
                    self._clearing = False
                self._problems.pop("flags", None)
                _LOG.warning("off cleared")
                self.audit.record("clear", **_who(peer))
                await self._settle(tasks)

    async def run_probe(self) -> ProbeResult:
        """Run the self-probe now and keep its result."""
        self.probe = await self.in_thread(self._self_test, PROBE_TIMEOUT_S)
        return self.probe

    async def sidecar_status(self, cut: bool = False) -> dict[str, Any]:
        """Ask the sidecar for its status, and tell those who listen. Raises :class:`KtlsError`."""
        answer = await self._ask({"verb": "status"})
        try:
            for listener in self._listeners:
                listener(self.clock(), answer, cut)
        except Exception:  # whoever only watches cannot hold up the machine
            _LOG.exception("a listener failed")
        return answer

    # Time

    def tick(self) -> None:
        """Look at the flag, the lease and the sidecar. Returns at once; what follows runs by itself."""
        # What could not be written stays wanted: retry with each watch, not with each tick.
        due = self.clock() - self._watched_s >= WATCH_SIDECAR_EVERY_S
        self._look(due)
        if due and (self._watching is None or self._watching.done()):
            self._watched_s = self.clock()
            if self._disk.owes:
                self._disk.follow([])
            self._watching = self._task(self._watch())
        block = self.experiments.due(self.clock())
        late = self.clock() >= self._turn_again_s and (self._turning is None or self._turning.done())
        if block is not None and late:
            self._turning = self._task(self._turn_block(block))

    def _look(self, due: bool = False) -> None:
        run, durable = self.flags.present()
        reason = "" if self.state.latched or not (run or durable) else (self.flags.read().reason or "flag")
        marks = self.marks.lapsed(), self.marks.stuck()
        event = Ticked(self.clock(), run or durable, run and durable, reason, *marks)
        before, transition = self.state, step(self.state, event)
        if self._clearing:
            # Half a clear looks like half a flag; completing it would undo the clear.
            follow = tuple(effect for effect in transition.follow if not isinstance(effect, PutFlags))
            after = replace(transition.state, stuck=before.stuck)
            transition = Transition(after, transition.prepare, follow)
        if transition.state == before and not (due and transition.follow):
            return
        if transition.state.latched and not before.latched:
            self.audit.record("off", reason=reason)
        if transition.state.status != before.status:
            self._note_revert(transition.state)
        if transition.state.stuck and not before.stuck:
            _LOG.critical("stuck: ktls-off has given a revert up")
            self.audit.record("stuck", by="ktls-off")
        self._enter(transition)

    def _note_revert(self, state: State) -> None:
        _LOG.warning("order %s: %s", state.status, state.reason)
        event = "lease_expired" if state.reason == "lease_expired" else "revert"
        self.audit.record(event, reason=state.reason, order=_named(state))

    async def _watch(self) -> None:
        """Once a second: is everything as it should be?"""
        revert = self.state.revert
        idle = not self._undo_lock.locked() and not self._undoer.busy and self.clock() >= self._undo_at_s
        if revert is not None and revert.open and revert.steps and idle:
            self._task(self._undo(self._switch()))
        if self._cards_owed and not self._cards_lock.locked() and self.clock() >= self._cards_at_s:
            self._task(self._settle_cards())
        if self._armed and self.state.status != "pending" and not self._lease_kept and not self._timer_lock.locked():
            self._task(self._disarm(()))
        if self.state.status == "pending" and (self._keeping is None or self._keeping.done()):
            self._keeping = self._task(self._disk.run(self._keep_lease))  # a disk that hangs holds up nothing else
        try:
            answer = await self.sidecar_status()
            if self._cards_coming is not None and self._cards_coming == self.state.order and self.state.wanted == HW:
                return  # the watch is not to be before the cards
            if answer.get("mode") != self.state.wanted:
                _LOG.warning("the sidecar is in %s, wanted is %s", answer.get("mode"), self.state.wanted)
                await self._sync()
            elif (self.experiments.current is not None and not self._has_share(answer)) or not self._has_tls12(answer):
                await self._sync()
        except KtlsError:
            pass  # kept in sidecar_error by _ask

    def _keep_lease(self) -> None:
        """Write the lease again if it has gone: a run of the shell that was late may have put another one away.

        On the disk thread, where the removal that belongs to a change of state comes after that change.
        """
        state, intent = self.state, self._intent
        if state.status != "pending" or self._applying is not None or self.marks.lapsed() or self._store.has_lease():
            return
        if intent is None or (intent.order, intent.deadline_s) != (state.order, state.deadline_s):
            return
        _LOG.warning("the lease of order %s had gone; it is written again", intent.order.id)
        try:
            self._store.put_intent(intent, self._boot)
            self._problems.pop("lease", None)
        except OSError as error:
            self._problems["lease"] = f"the lease of the pending order cannot be written ({why(error)}); retrying"

    # Towards kTLS

    async def _ordered(self, order: Order, peer: Peer | None) -> None:
        event = OrderCame(
            order,
            self.clock(),
            self._flag(),
            self._available(),
            self._levers.has_module,
            peer.connection if peer else 0,
        )
        before, backs = self.state, self._backs
        transition = step(before, event)
        if transition.state is before:
            return
        await self._refuse(order)
        self.audit.record("order", **order.as_dict(), **_who(peer))
        mode = await self._mode_before(order)
        self._applying = order
        try:
            await self._prepare(transition, "the order", mode, lambda: self._overtaken(order, before, backs))
            self._overtaken(order, before, backs)
            deadline = transition.state.deadline_s
            if deadline is not None and self.clock() >= deadline:
                raise RefusedError("lease_expired", f"the lease of order {order.id} ended before it was in force")
            self.state = transition.state
            self.experiments.ordered(order, self.clock())
            self.ordered_at_s = None
        except BaseException as error:
            self._applying = None
            if isinstance(error, (Exception, asyncio.CancelledError)):
                await self._withdraw()
            raise
        self._applying = None
        self._lease_kept = False
        _LOG.info("order %s epoch %d: %s, lease %g s", order.id, order.epoch, order.phase, order.lease_s)
        await self._apply(order, any(isinstance(effect, OffloadBack) for effect in transition.follow))

    async def _refuse(self, order: Order) -> None:
        """Raise what the datapath has against ``order``: then nothing was touched, not even what is pending."""
        found = await self._refusal(order.phase) if self._refusal and order.phase != USERSPACE else None
        if found is not None:
            raise RefusedError(found.code, found.message)

    async def _mode_before(self, order: Order) -> str | None:
        """Return the mode that is in force. A sidecar that does not answer is no reason to undo what stands."""
        try:
            return str((await self.sidecar_status(cut=True)).get("effective_mode"))
        except KtlsError as error:
            if order.phase == USERSPACE:
                return None
            raise RefusedError("sidecar_unreachable", f"the sidecar does not answer: {error.message}") from error

    def _overtaken(self, order: Order, before: State, backs: int) -> None:
        """Raise if anything has asked for userspace since ``before``."""
        self._look()
        # The last revert may still be under way, and note its progress in the state.
        same = replace(self.state, revert=None) == replace(before, revert=None)
        if same and self._backs == backs and (order.phase == USERSPACE or not self._flag()):
            return
        code = "off_latched" if self.state.latched or self._flag() else "apply_failed"
        raise RefusedError(code, f"order {order.id} was overtaken: {self.state.reason or 'taken back'}")

    def _not_yet(self, order_id: str, epoch: int) -> bool:
        return self.state.order is None or self.state.order.key != (order_id, epoch)

    async def _prepare(
        self, transition: Transition, what: str, mode: str | None = None, check: Callable[[], None] = lambda: None
    ) -> None:
        """Carry out what must be done before the new state is in force, in its order. ``check`` may stop it."""
        self._touched = False
        for effect in transition.prepare:
            check()
            if isinstance(effect, WRITES):
                await self._write(effect, what, mode)
            else:
                await self._pull(effect)

    async def _write(self, effect: Effect, what: str, mode: str | None) -> None:
        if isinstance(effect, PutIntent):
            self._touched = True
            previous = replace(effect.previous, mode=mode, offload=self._levers.offload)
            if self._intent is not None and self._intent.order == effect.order:
                previous = self._intent.previous  # extended: what was before is still what was before
            effect = replace(effect, previous=previous)
        try:
            await self._disk.write(effect)
        except OSError as error:
            where = os.path.dirname(self.flags.run_path) if isinstance(effect, DropLapsed) else self._store.directory
            message = f"cannot make {what} durable in {where} ({why(error)}); free or repair the disk"
            raise RefusedError("state_write_failed", message) from error
        if isinstance(effect, PutIntent):
            self._intent = effect
            order = effect.order
            self.audit.record("intent", id=order.id, epoch=order.epoch, deadline_s=round(effect.deadline_s, 2))

    async def _pull(self, effect: Effect) -> None:
        """Use a lever on the way to kTLS. Raises RefusedError: timer_failed, module_failed, no_ktls, nic_failed."""
        code, what = "internal", "this effect is none of a lever"
        try:
            if isinstance(effect, ArmTimer):
                code, what = "timer_failed", "the timer that guards the lease cannot be started"
                async with self._timer_lock:
                    self._armed = self._levers.has_timer
                    await self._levers.arm()
            elif isinstance(effect, LoadModule):
                code, what = "module_failed", "module tls cannot be loaded"
                await self._levers.load()
                if not self._available():
                    raise RefusedError("no_ktls", "module tls was loaded, but the kernel does not offer TLS")
            else:
                code, what = "nic_failed", "the TLS features of the network cards cannot be switched off"
                await self._levers.offload_off()
        except RefusedError:
            raise
        except KtlsError as error:
            raise RefusedError(code, f"{what}: {error.message}") from error

    async def _withdraw(self) -> None:
        """Make the disk say again what is in force, after an order or an extension that was not taken."""
        state, intent = self.state, self._intent
        if state.wanted == HW:
            self._owe_cards()  # the order that was not taken may have switched them off
        if state.status != "pending" or state.order is None or state.deadline_s is None:
            self._intent = None
            await self._settle([self._task(self._disarm((self._disk.follow([DropIntent()]),)))])
            return
        if not self._touched:
            return
        if intent is not None and (intent.order, intent.deadline_s) == (state.order, state.deadline_s):
            again = intent
        else:
            again = PutIntent(state.order, state.deadline_s, state.since_s or 0.0)
        try:
            await self._disk.write(again)
            self._intent = again
        except OSError as error:
            # The lease on disk may be longer than the one in force: nobody could be trusted to end it in time.
            await self._settle(self._enter(step(state, RevertCame(f"state_write_failed: {why(error)}", state.order))))

    async def _apply(self, order: Order, back: bool = False) -> None:
        try:
            code, problem = await self._applied(order, back)
        except (Exception, asyncio.CancelledError):
            # An order that nobody waits for is not left half tested.
            self._enter(step(self.state, RevertCame("apply_failed: the agent could not finish the order", order)))
            raise
        if problem:
            transition = step(self.state, RevertCame(f"{code}: {problem}", order))
            if transition.state is not self.state:
                self._note_revert(transition.state)
            await self._settle(self._enter(transition))
            raise RefusedError(code, problem)
        self.state = step(self.state, TestPassed(order)).state
        self.audit.record("pending", id=order.id, epoch=order.epoch, phase=order.phase)
        self.experiments.begin(order, self.clock())

    async def _applied(self, order: Order, back: bool) -> tuple[str, str]:
        """Return ("", "") if ``order`` is in force and tested, else the code and the reason.

        ``back``: network cards were on until now.
        """
        if order.phase == HW:
            problem = await self._cards_on(order)
            if problem or self.state.order != order or self.state.status != "pending":
                return ("nic_failed", problem) if problem else ("", "")
        try:
            answer = await self._sync()
        except KtlsError as error:
            return "sidecar_unreachable", f"the sidecar did not take the order: {error.message}"
        if self.state.order != order or self.state.status != "pending":
            return "", ""
        self.ordered_at_s = self.clock()
        if order.phase == USERSPACE:
            if back:
                await self._settle([self._owe_cards()])
            return "", ""
        effective = answer.get("effective_mode")
        if not fulfils(effective, order.phase):
            return "apply_failed", f"the sidecar stays in {effective}; its log and fallbacks say why"
        self.probe = await self.in_thread(self._self_test, min(PROBE_TIMEOUT_S, order.lease_s))
        both = effective == TX_RX  # of a server with a library of its own, which can
        phase, library = (RX, (3, 2)) if both else (order.phase, None)
        problem = verdict(self.probe, phase, library, tls12=self.tls12_consent)
        return ("apply_failed", problem) if problem else ("", "")

    # Network cards: on in phase hw, off in those below it

    async def _cards_on(self, order: Order) -> str:
        """Switch the cards on for ``order``; return why that cannot be, or nothing."""
        self._cards_coming = order
        async with self._cards_lock:
            try:
                await self._levers.offload_on()
                problem = ""
            except KtlsError as error:
                problem = f"no network card can be switched on for TLS: {error.message}"
            finally:
                self._cards_coming = None
        if self.state.order != order or self.state.status != "pending":
            # Its revert may have been at the cards before we were.
            self._owe_cards()
        elif not problem:
            self._problems.pop("nic", None)
            detail = {"before": self._levers.before, "after": self._levers.offload}
            self.audit.record("offload", id=order.id, epoch=order.epoch, **detail)
        return problem

    def _owe_cards(self) -> asyncio.Future[Any]:
        """Bring the cards to what the state wants, now and again until they are."""
        self._cards_owed = True
        return self._task(self._settle_cards())

    async def _settle_cards(self) -> None:
        async with self._cards_lock:
            while self._cards_owed:
                wanted = self.state.wanted
                way = {HW: self._levers.offload_on, USERSPACE: self._levers.offload_back}
                self._cards_at_s = self.clock() + CARDS_AGAIN_S
                try:
                    await way.get(wanted, self._levers.offload_off)()
                except KtlsError as error:
                    said = f"network cards are not as phase {wanted} wants them ({error.message}); retrying"
                    if self._problems.get("nic") != said:
                        _LOG.error("%s", said)
                    self._problems["nic"] = said
                    return
                if self.state.wanted == wanted:
                    self._cards_owed = False
                    self._problems.pop("nic", None)

    # Experiments: they only choose which new connections take the phase that is in force

    def _share(self) -> float:
        """Return the part of new connections that takes the wanted mode: less than one only while a test goes on."""
        state, running = self.state, self.experiments.running
        if running is None or state.status != "pending" or state.order is None or state.order.key != running:
            return 1.0
        return self.experiments.share(self.clock())

    def _has_share(self, answer: dict[str, Any]) -> bool:
        return self.state.wanted == USERSPACE or bool(answer.get("share", 1.0) == self._share())

    def _tls12(self) -> bool:
        return self.tls12_consent and self.state.wanted == HW

    def _has_tls12(self, answer: dict[str, Any]) -> bool:
        """Whether the sidecar moves connections to TLS 1.2 if, and only if, that is consented to and ordered."""
        in_hw = answer.get("effective_mode") == HW
        return not in_hw or answer.get("tls12", False) == self._tls12()

    async def _turn_block(self, block: int) -> None:
        """Bring the sidecar to ``block``. Intervals end here."""
        with contextlib.suppress(KtlsError):
            await self.sidecar_status(cut=True)
            if self._has_share(await self._sync()):
                self.experiments.switched(block, self.clock())
                return
        self._turn_again_s = self.clock() + WATCH_SIDECAR_EVERY_S

    async def _end_experiment(self, why: str) -> bool:
        """End the experiment of the pending order, if it has one, and see that every new connection takes the phase.

        Returns whether it has one. Raises RefusedError: experiment_not_ended. Then it is over all the same, and the
        lease goes on.
        """
        order = self.state.order
        if order is None or order.experiment is None or self.state.status != "pending":
            return False
        with contextlib.suppress(KtlsError):
            await self.sidecar_status(cut=True)
        self.experiments.end(why, self.clock())
        try:
            answer = await self._sync()
            problem = "" if self._has_share(answer) else f"the sidecar has share {answer.get('share')}"
        except KtlsError as error:
            problem = error.message
        if problem:
            message = f"the experiment of order {order.id} is over, but not shown to be: {problem}; try again"
            raise RefusedError("experiment_not_ended", message)
        self.audit.record("experiment_ended", id=order.id, epoch=order.epoch, why=why)
        return True

    # Towards userspace

    def _enter(self, transition: Transition) -> list[asyncio.Future[Any]]:
        """Put the new state in force and start what follows; the sidecar does not wait for the disk."""
        self.state = transition.state
        if self.state.status not in ("pending", "committed"):
            self.ordered_at_s = None
        if self.state.status != "pending":
            self.experiments.end(self.state.reason or self.state.status, self.clock())
        tasks: list[asyncio.Future[Any]] = []
        for effect in transition.follow:
            if isinstance(effect, PutFlags):
                try:
                    self.flags.write_run(effect.reason)
                except OSError as error:
                    self._problems["flags"] = f"{self.flags.run_path} cannot be written ({why(error)})"
        at_once = [effect for effect in transition.follow if isinstance(effect, PutFlags)]
        later = [effect for effect in transition.follow if isinstance(effect, WRITES) and effect not in at_once]
        disarm = any(isinstance(effect, DisarmTimer) for effect in transition.follow)
        if at_once:
            tasks.append(self._task(_landed(self._disk.follow(at_once))))
        if any(isinstance(effect, Undo) for effect in transition.follow):
            switching = self._switch()
            tasks.append(self._task(self._undo(switching)))
            tasks.append(self._task(self._record(switching, later, disarm)))
            self._unrecorded.add(tasks[-1])
            tasks[-1].add_done_callback(self._unrecorded.discard)
            return tasks
        if any(isinstance(effect, (OffloadOn, OffloadOff, OffloadBack)) for effect in transition.follow):
            self._owe_cards()
        if any(isinstance(effect, SyncMode) for effect in transition.follow):
            tasks.append(self._task(self._sync()))
        written = [self._disk.follow(later)] if later else []
        tasks.extend(self._task(_landed(future)) for future in written)
        if disarm:
            tasks.append(self._task(self._disarm(written)))
        return tasks

    async def _record(
        self, switching: asyncio.Future[tuple[str, str]], effects: Sequence[Effect], disarm: bool
    ) -> None:
        """Write that a revert is done when it is: until the datapath is in userspace, whatever guards it stays."""
        result, _ = await switching
        self._lease_kept = result != "done"
        if self._lease_kept:
            effects = [effect for effect in effects if not isinstance(effect, DropIntent)]
        written = [self._disk.follow(effects)] if effects else []
        if disarm and not self._lease_kept:
            self._task(self._disarm(written))
        for future in written:
            await _landed(future)

    def _switch(self) -> asyncio.Future[tuple[str, str]]:
        """Start to bring the datapath to userspace, before anything else is thought of."""
        return self._task(self._undoer.datapath())

    async def _undo(self, datapath: asyncio.Future[tuple[str, str]]) -> None:
        async with self._undo_lock:
            revert = self.state.revert
            if revert is None or not revert.open:
                await datapath
                return
            steps = await self._undoer.once(revert, datapath)
            was_stuck = self.state.stuck
            transition = step(self.state, UndoTried(revert, steps, self._undoer.busy))
            now = transition.state.revert
            if now is not None:
                self._undo_at_s = self.clock() + 2.0 ** max(0, now.tries - 1)
            if now is not None and now.failed and now is not revert:
                failed = "; ".join(f"{one.step}: {one.detail}" for one in steps if one.result == "failed")
                _LOG.error("revert, try %d: %s", now.tries or 1, failed)
                if transition.state.stuck and not was_stuck:
                    _LOG.critical("stuck: userspace TLS serves; repair that and clear")
                    self.audit.record("stuck", by="agent", steps=failed)
            self._enter(transition)
            if self._lease_kept and (await datapath)[0] == "done" and self.state.status != "pending":
                self._lease_kept = False
                await self._disarm((self._disk.follow([DropIntent()]),))

    async def _disarm(self, after: Sequence[Future[OSError | None]]) -> None:
        """Stop the lease timer, unless an order needs it. A timer without a lease does nothing, so this may fail."""
        for future in after:
            await _landed(future)
        async with self._timer_lock:
            if self._applying is not None or self.state.status == "pending" or self._armed is False:
                return
            try:
                await self._levers.disarm()
            except KtlsError as error:
                if self._armed:
                    self._problems["timer"] = f"the lease timer cannot be stopped: {error.message}"
                return
            self._armed = False
            self._problems.pop("timer", None)

    async def _sync(self) -> dict[str, Any]:
        async with self._sidecar_lock:
            while True:
                wanted, share = self.state.wanted, self._share()
                part: dict[str, Any] = {"share": share} if share != 1.0 and wanted != USERSPACE else {}
                if self._tls12():
                    part["tls12"] = True
                answer = await self._ask({"verb": "mode", "mode": wanted, **part})
                if self.state.wanted == wanted and self._share() == share:
                    return answer

    async def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = await self._call_sidecar(request)
        except KtlsError as error:
            if self.sidecar_error is None:
                _LOG.error("sidecar: %s", error.message)
            self.sidecar_error = error.message
            raise
        self.sidecar_error = None
        return answer

    # Small things

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Be the only one on the way to kTLS, after the writes of every revert that is under way."""
        async with self._on_lock:
            while self._unrecorded:
                await asyncio.wait(set(self._unrecorded))
            yield

    def _flag(self) -> bool:
        return any(self.flags.present())

    def flag_info(self) -> FlagInfo:
        """Return what is known of the off flag."""
        return self.flags.read()

    @contextlib.contextmanager
    def _audited(self, verb: str, peer: Peer | None) -> Iterator[None]:
        try:
            yield
        except RefusedError as error:
            self.audit.record("refused", verb=verb, code=error.code, message=error.message, **_who(peer))
            raise

    async def _settle(self, tasks: Sequence[asyncio.Future[Any]]) -> None:
        if not tasks:
            return
        done, _ = await asyncio.wait(tasks, timeout=FOLLOW_TIMEOUT_S)
        for task in done:
            error = None if task.cancelled() else task.exception()
            if error is not None and not isinstance(error, KtlsError):
                raise error

    def _task(self, work: Awaitable[Any]) -> asyncio.Future[Any]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_retrieve)
        return task


def _retrieve(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


async def _landed(future: Future[OSError | None]) -> None:
    await asyncio.wrap_future(future)


def _checked_key(verb: str, order_id: object, epoch: object) -> tuple[str, int]:
    if not isinstance(order_id, str) or isinstance(epoch, bool) or not isinstance(epoch, int):
        raise RefusedError("bad_order", f"{verb} needs the id (text) and the epoch (integer) of the pending order")
    return order_id, epoch


def _who(peer: Peer | None) -> dict[str, int]:
    return {} if peer is None else {"uid": peer.uid, "pid": peer.pid}


def _named(state: State) -> dict[str, Any] | None:
    return {"id": state.order.id, "epoch": state.order.epoch} if state.order else None


def _shown(one: StepResult, by: str) -> dict[str, Any]:
    return {"step": one.step, "result": one.result, "detail": one.detail, "at": round(one.at_s, 3), "by": by}
