# SPDX-License-Identifier: Apache-2.0
"""Carries out what the order machine says. Knows no sockets of its own: all I/O is handed in.

Disk work runs on one thread, in the order in which it was asked for, so that a slow disk cannot hold the event loop
and a later outcome cannot be overwritten by an earlier one. The sidecar is driven by level: whatever happened, it is
brought to what the state wants now.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable

from ktls_host.errors import KtlsError

from .audit import Audit, NoAudit
from .flags import FlagInfo, OffFlags
from .machine import (
    USERSPACE,
    ClearCame,
    ConfirmCame,
    DropFlags,
    DropIntent,
    Effect,
    OffCame,
    Order,
    OrderCame,
    PutEpoch,
    PutFlags,
    PutIntent,
    PutRecord,
    RefusedError,
    RevertCame,
    State,
    SyncMode,
    TestPassed,
    Ticked,
    Transition,
    recover,
    step,
)
from .probe import ProbeResult
from .store import Store

_LOG = logging.getLogger(__name__)
PROBE_TIMEOUT_S = 15.0
WATCH_SIDECAR_EVERY_S = 1.0
FOLLOW_TIMEOUT_S = 4.0

SidecarCall = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
SelfTest = Callable[[float], ProbeResult]


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
    ) -> None:
        """Take the parts; nothing runs before :meth:`start`. ``self_test(timeout_s)`` may block."""
        self.state = State()
        self.probe: ProbeResult | None = None
        self.sidecar_error: str | None = None
        self.clock = clock
        self.flags = flags
        self.audit: Audit = audit or NoAudit()
        self._store = store
        self._call_sidecar = sidecar
        self._self_test = self_test
        self._boot = boot_id() if boot is None else boot
        self._available = available
        self._problems: dict[str, str] = {}
        self._owed: list[Effect] = []  # touched on the disk thread only
        self._disk = ThreadPoolExecutor(1, "ktls-disk")
        self._work = ThreadPoolExecutor(4, "ktls-work")
        self._on_lock = asyncio.Lock()  # towards kTLS, one at a time; OFF never waits for it
        self._sidecar_lock = asyncio.Lock()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._watched_s = float("-inf")
        self._watching: asyncio.Future[Any] | None = None
        self._clearing = False

    # Life

    async def start(self) -> None:
        """Read what is durable and bring the host there: unconfirmed orders are undone first of all."""
        durable = await self._on_disk(self._store.load)
        for name in durable.damaged:
            self._problems[name] = f"{name} was damaged and is set aside beside it as {name}.corrupt-*; now userspace"
            _LOG.error("%s", self._problems[name])
        transition = recover(durable, self._boot, self._flag())
        if transition.state.status == "reverted" and transition.follow and durable.record_status != "reverted":
            _LOG.warning("back to userspace at start: %s", transition.state.reason)
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
        self._disk.shutdown(wait=False)
        self._work.shutdown(wait=False)

    async def in_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run blocking ``function`` away from the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._work, function, *args)

    @property
    def problems(self) -> list[str]:
        """What an operator should know: damaged or unwritable state."""
        return [self._problems[name] for name in sorted(self._problems)]

    # Verbs

    async def order(self, raw: object) -> None:
        """Apply an order provisionally. Raises :class:`RefusedError`; then nothing of it is in force."""
        order = Order.parse(raw)
        async with self._on_lock:
            before = self.state
            event = OrderCame(order, self.clock(), self._flag(), self._available())
            transition = step(before, event)
            if transition.state is before:
                return
            try:
                await self._prepare(transition, "the order")
            except RefusedError:
                if before.status != "pending":
                    self._submit([DropIntent()])
                raise
            if self.state != before or (order.phase != USERSPACE and self._flag()):
                if self.state.status != "pending":
                    self._submit([DropIntent()])
                code = "off_latched" if self.state.latched or self._flag() else "apply_failed"
                raise RefusedError(code, f"order {order.id} was overtaken: {self.state.reason or 'off flag'}")
            self.state = transition.state
            _LOG.info("order %s epoch %d: %s, lease %g s", order.id, order.epoch, order.phase, order.lease_s)
            await self._apply(order)

    async def confirm(self, order_id: object, epoch: object) -> None:
        """Make the pending order durable."""
        if not isinstance(order_id, str) or isinstance(epoch, bool) or not isinstance(epoch, int):
            raise RefusedError("bad_order", "confirm needs the id (text) and the epoch (integer) of the pending order")
        async with self._on_lock:
            before = self.state
            transition = step(before, ConfirmCame(order_id, epoch, self.clock(), self._flag()))
            if transition.state is before:
                return
            await self._prepare(transition, "the confirmation")
            if self.state != before:
                raise RefusedError("not_pending", f"order {order_id} was reverted meanwhile: {self.state.reason}")
            _LOG.info("order %s epoch %d committed", order_id, epoch)
            await self._settle(self._enter(transition))

    async def revert(self, reason: str) -> None:
        """Go back to userspace and undo the order, whatever is going on."""
        _LOG.warning("revert: %s", reason)
        await self._settle(self._enter(step(self.state, RevertCame(reason))))

    async def off(self, reason: str) -> None:
        """Write the off flags and switch the sidecar. Never refused; what did not work is in :attr:`problems`."""
        _LOG.warning("off: %s", reason)
        await self._settle(self._enter(step(self.state, OffCame(reason))))

    async def clear(self) -> None:
        """Remove the off flags. Raises :class:`RefusedError`: clear_failed. Switches nothing on."""
        async with self._on_lock:
            self._clearing = True
            try:
                await self._on_disk(self._prepare_on_disk, step(self.state, ClearCame()).prepare)
                self.state = step(self.state, ClearCame()).state
            except OSError as error:
                cure = f"remove {self.flags.run_path} and {self.flags.durable_path} as root"
                raise RefusedError("clear_failed", f"an off flag stays ({_why(error)}); {cure}") from error
            finally:
                self._clearing = False
            self._problems.pop("flags", None)
            _LOG.warning("off cleared")

    async def run_probe(self) -> ProbeResult:
        """Run the self-probe now and keep its result."""
        self.probe = await self.in_thread(self._self_test, PROBE_TIMEOUT_S)
        return self.probe

    async def sidecar_status(self) -> dict[str, Any]:
        """Ask the sidecar for its status. Raises :class:`KtlsError`."""
        return await self._ask({"verb": "status"})

    # Time

    def tick(self) -> None:
        """Look at the flag, the lease and the sidecar. Returns at once; what follows runs by itself."""
        run, durable = self.flags.present()
        reason = "" if self.state.latched or not (run or durable) else (self.flags.read().reason or "flag")
        event = Ticked(self.clock(), run or durable, run and durable, reason)
        transition = step(self.state, event)
        if self._clearing:
            # Half a clear looks like half a flag; completing it would undo the clear.
            follow = tuple(effect for effect in transition.follow if not isinstance(effect, PutFlags))
            transition = Transition(transition.state, transition.prepare, follow)
        if transition.state.status != self.state.status:
            _LOG.warning("order %s: %s", transition.state.status, transition.state.reason)
        # What could not be written stays wanted: retry with each watch, not with each tick.
        due = self.clock() - self._watched_s >= WATCH_SIDECAR_EVERY_S
        if transition.state != self.state or (due and transition.follow):
            self._enter(transition)
        if due and (self._watching is None or self._watching.done()):
            self._watched_s = self.clock()
            if self._owed:
                self._submit([])
            self._watching = self._task(self._watch_sidecar())

    # Parts

    async def _apply(self, order: Order) -> None:
        try:
            code, problem = await self._applied(order)
        except (Exception, asyncio.CancelledError):
            # An order that nobody waits for is not left half tested.
            self._enter(step(self.state, RevertCame("apply_failed: the agent could not finish the order", order)))
            raise
        if problem:
            await self._settle(self._enter(step(self.state, RevertCame(f"{code}: {problem}", order))))
            raise RefusedError(code, problem)
        self.state = step(self.state, TestPassed(order)).state

    async def _applied(self, order: Order) -> tuple[str, str]:
        """Return ("", "") if ``order`` is in force and tested, else the code and the reason."""
        try:
            answer = await self._sync()
        except KtlsError as error:
            return "sidecar_unreachable", f"the sidecar did not take the order: {error.message}"
        if self.state.order != order or self.state.status != "pending" or order.phase == USERSPACE:
            return "", ""
        effective = answer.get("effective_mode")
        if effective != order.phase:
            return "apply_failed", f"the sidecar stays in {effective}; its log and fallbacks say why"
        result = await self.in_thread(self._self_test, min(PROBE_TIMEOUT_S, order.lease_s))
        self.probe = result
        if not result.ok:
            return "apply_failed", f"the self-test failed: {result.error}"
        if result.ktls_tx is None:
            return "apply_failed", f"the self-test could not see the kernel's socket: {result.error or 'not found'}"
        if not result.ktls_tx:
            return "apply_failed", f"the self-test got userspace TLS ({result.protocol} {result.cipher}), not kTLS"
        return "", ""

    async def _sync(self) -> dict[str, Any]:
        async with self._sidecar_lock:
            while True:
                wanted = self.state.wanted
                answer = await self._ask({"verb": "mode", "mode": wanted})
                if self.state.wanted == wanted:
                    return answer

    async def _watch_sidecar(self) -> None:
        try:
            answer = await self._ask({"verb": "status"})
            if answer.get("mode") != self.state.wanted:
                _LOG.warning("the sidecar is in %s, wanted is %s", answer.get("mode"), self.state.wanted)
                await self._sync()
        except KtlsError:
            pass  # kept in sidecar_error by _ask

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

    def _flag(self) -> bool:
        return any(self.flags.present())

    def flag_info(self) -> FlagInfo:
        """Return what is known of the off flag."""
        return self.flags.read()

    async def _prepare(self, transition: Transition, what: str) -> None:
        try:
            await self._on_disk(self._prepare_on_disk, transition.prepare)
        except OSError as error:
            message = f"cannot make {what} durable in {self._store.directory} ({_why(error)}); free or repair the disk"
            raise RefusedError("state_write_failed", message) from error

    def _enter(self, transition: Transition) -> list[asyncio.Future[Any]]:
        """Put the new state in force and start what follows; the sidecar does not wait for the disk."""
        self.state = transition.state
        tasks: list[asyncio.Future[Any]] = []
        for effect in transition.follow:
            if isinstance(effect, PutFlags):
                try:
                    self.flags.write_run(effect.reason)
                except OSError as error:
                    self._problems["flags"] = f"{self.flags.run_path} cannot be written ({_why(error)})"
        if any(isinstance(effect, SyncMode) for effect in transition.follow):
            tasks.append(self._task(self._sync()))
        disk = [effect for effect in transition.follow if not isinstance(effect, SyncMode)]
        if disk:
            tasks.append(self._task(self._owe(self._submit(disk))))
        return tasks

    async def _settle(self, tasks: list[asyncio.Future[Any]]) -> None:
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

    # The disk thread

    async def _on_disk(self, function: Callable[..., Any], *args: Any) -> Any:
        return await asyncio.wrap_future(self._disk.submit(function, *args))

    def _submit(self, effects: Sequence[Effect]) -> Future[OSError | None]:
        return self._disk.submit(self._follow_on_disk, effects)

    async def _owe(self, future: Future[OSError | None]) -> None:
        await asyncio.wrap_future(future)

    def _prepare_on_disk(self, effects: tuple[Effect, ...]) -> None:
        if error := self._follow_on_disk([]):
            raise error
        for effect in effects:
            self._carry_out(effect)

    def _follow_on_disk(self, effects: Sequence[Effect]) -> OSError | None:
        """Carry out ``effects`` after what is still owed; what fails stays owed, and what depends on it waits."""
        self._owed.extend(effects)
        while self._owed:
            try:
                self._carry_out(self._owed[0])
            except OSError as error:
                if not isinstance(self._owed[0], PutFlags):
                    self._problems["state"] = f"{self._store.directory} cannot be written ({_why(error)}); retrying"
                    return error
                self._problems["flags"] = f"{self.flags.durable_path} cannot be written ({_why(error)})"
            self._owed.pop(0)
        self._problems.pop("state", None)
        return None

    def _carry_out(self, effect: Effect) -> None:
        if isinstance(effect, PutEpoch):
            self._store.put_epoch(effect.epoch)
        elif isinstance(effect, PutIntent):
            self._store.put_intent(effect.order, effect.deadline_s, self._boot)
        elif isinstance(effect, DropIntent):
            self._store.drop_intent()
        elif isinstance(effect, PutRecord):
            self._store.put_record(effect.status, effect.order, effect.reason)
        elif isinstance(effect, PutFlags):
            self.flags.write_durable(effect.reason)
            self._problems.pop("flags", None)
        elif isinstance(effect, DropFlags):
            self.flags.clear()


def _retrieve(task: asyncio.Future[Any]) -> None:
    if not task.cancelled():
        task.exception()


def _why(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__
