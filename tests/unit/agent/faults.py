# SPDX-License-Identifier: Apache-2.0
"""A host whose agent meets an accident at a named place, and the promises that must hold whatever it was."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ktls_agent.core import Agent
from ktls_agent.levers import Levers
from ktls_agent.machine import RefusedError
from ktls_agent.probe import ProbeResult
from ktls_agent.store import Store
from ktls_host.errors import KtlsError
from ktls_host.jsonsock import JsonSockError

from .conftest import Host, KilledError, drained, experiment, order

LEASE_S = 60.0
OFF_FIRST = 0  # a seed whose first pair begins with userspace
Act = Callable[["FaultyHost", Agent], Awaitable[None]]


@dataclass
class Accident:
    """What happens at the checkpoint with number ``at``, counted from when it was set."""

    kind: str  # none | kill | once | lasting | hang | wall+ | wall- | frozen
    at: int = -1
    met: str = ""
    seen: list[str] = field(default_factory=list)
    lifted: bool = False

    def here(self, name: str) -> bool:
        """Count a checkpoint; return whether the accident happens at it."""
        self.seen.append(name)
        first = len(self.seen) - 1 == self.at
        if first:
            self.met = name
        again = self.kind == "lasting" and self.met != "" and not self.lifted and _where(name) == _where(self.met)
        return first or again


def _where(name: str) -> str:
    """Return what a checkpoint belongs to: the disk, a helper, the sidecar, the probe."""
    second = name.split()[1]
    return "disk" if second in ("put", "drop") else second


class AtOnce(Executor):
    """Runs what it is given before it returns: a thread without its latency, where nothing is to overtake."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **named: Any) -> Future[Any]:
        """Run it now."""
        future: Future[Any] = Future()
        try:
            future.set_result(function(*args, **named))
        except BaseException as error:
            future.set_exception(error)
        return future


class Life:
    """One agent process. Once dead it does nothing more, whatever its threads would still do."""

    dead = False


class FaultyHost(Host):
    """What outlives an agent, the second guardian included."""

    def __init__(self, directory: Path) -> None:
        """Make a host in ``directory``."""
        directory.mkdir()
        super().__init__(directory)
        self.accident = Accident("none")
        self.wall_s = 0.0
        self.threads = True
        self.cards = False
        """Whether a network card encrypts TLS; and, what the helper remembers, what that was before phase hw."""
        self.before_hw: bool | None = None
        self.sidecar.on_change = self.changed

    def changed(self, mode: str) -> None:
        """Watch the sidecar: never kTLS without something durable."""
        assert mode == "userspace" or self.on_is_durable(), "on before its intent is durable"

    def agent(self) -> Agent:
        """Start the next process of the agent."""
        life = Life()

        def checkpoint(name: str) -> None:
            if life.dead:
                raise KilledError(name)
            if self.accident.here(name):
                self._strike(name, life)

        async def at(name: str) -> None:
            checkpoint(name)
            if self.accident.kind == "hang" and self.accident.met == name and self.accident.seen[-1] == name:
                await asyncio.sleep(0.01)
                raise JsonSockError("timeout", "no answer: look at the log of its service")

        async def sidecar(request: dict[str, Any]) -> dict[str, Any]:
            if request["verb"] == "status":
                if life.dead:
                    raise KilledError("status")
                return self.sidecar.answer(request)
            await at(f"before mode {request['mode']}")
            answer = self.sidecar.answer(request)
            await at(f"after mode {request['mode']}")
            return answer

        async def helper(path: str, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
            verb = request["verb"]
            await at(f"before {path} {verb}")
            if path == "timer":
                self.helpers.armed = verb == "arm"
            elif verb == "load":
                self.ktls = True
            elif path == "nic":
                self.switch_cards(verb)
            await at(f"after {path} {verb}")
            return {"ok": True, "changed": True}

        def self_test(timeout_s: float) -> ProbeResult:
            try:
                checkpoint("before probe")
                on = self.sidecar.effective in ("tx", "hw")
                checkpoint("after probe")
            except (OSError, KtlsError) as error:
                return ProbeResult(False, self.now, error=str(error))
            return ProbeResult(True, self.now, 0.01, True, on, "TLSv1.3", "C")

        made = Agent(
            Store(str(self.state_dir), checkpoint),
            self.flags,
            sidecar,
            self_test,
            lambda: self.now,
            self.boot,
            lambda: self.ktls,
            levers=Levers(helper, "timer", "module", "nic"),
        )
        made._undoer._wait_s = 0.01
        if not self.threads:
            made._disk._thread = made._work = AtOnce()  # type: ignore[assignment]
        return made

    def _strike(self, name: str, life: Life) -> None:
        kind = self.accident.kind
        if kind == "kill":
            life.dead = True
            raise KilledError(name)
        if kind in ("once", "lasting"):
            if _where(name) == "disk":
                number = errno.ENOSPC if kind == "once" else errno.EROFS
                raise OSError(number, os.strerror(number))
            raise JsonSockError("helper_failed", "it did not work: look at its log")
        if kind in ("wall+", "wall-"):
            self.wall_s += 3600.0 if kind == "wall+" else -3600.0
        if kind == "frozen":
            self.pass_time(LEASE_S + 1)

    def switch_cards(self, verb: str) -> None:
        """What helper/nic.py does."""
        if verb == "on":
            if any((*self.flags.present(), (self.run_dir / "lapsed").exists())):
                raise JsonSockError("off_latched", "an off flag is set on this host: no card is switched on for TLS")
            self.before_hw = self.cards if self.before_hw is None else self.before_hw
            self.cards = True
        elif verb == "off":
            self.cards, self.before_hw = False, None
        elif self.before_hw is not None:
            self.cards = self.before_hw and not any(self.flags.present())
            self.before_hw = None

    def pass_time(self, seconds: float) -> None:
        """Let time pass while the agent does nothing: the timer goes on."""
        self.now += seconds
        self.timer_tick()

    def timer_tick(self) -> None:
        """What ``ktls-off --lease`` does, with no more than a shell has: lines of text, and /proc/uptime."""
        if self.helpers.armed:
            self._shell(at_boot=False)

    def _shell(self, at_boot: bool) -> None:
        try:
            text = (self.state_dir / "lease").read_text()
        except FileNotFoundError:
            return
        lines = text.splitlines()
        assert text.endswith("\n"), "half a lease"
        assert [line.partition("=")[0] for line in lines] == ["id", "epoch", "boot_id", "deadline_s"], text
        lease = dict(line.split("=", 1) for line in lines)
        if at_boot or lease["boot_id"] != self.boot or self.now >= float(lease["deadline_s"]):
            (self.run_dir / "lapsed").touch()
            (self.run_dir / "revert").write_text("nic nothing\nrx nothing\ntx done\n")
            self.sidecar.mode = "userspace"
            self.cards = False

    def power_cut(self) -> None:
        """Lose what is in memory; the boot check comes before the datapath."""
        for name in os.listdir(self.run_dir):
            (self.run_dir / name).unlink()
        self.boot = f"boot-{next(_BOOTS)}"
        self.now = 5.0
        self.helpers.armed = False
        self.sidecar.mode = "userspace"
        self.cards = True  # as the driver has it
        self._shell(at_boot=True)

    def cards_are_right(self, agent: Agent) -> bool:
        """Whether the cards are what the state of ``agent`` wants; true while it still works on that."""
        revert = agent.state.revert
        if agent._cards_owed or agent._tasks or (revert is not None and revert.open) or agent.state.stuck:
            return True
        if agent.state.wanted == "hw":
            return self.cards
        if agent.state.wanted == "userspace":
            return self.before_hw is None or agent.state.order is None
        return not self.cards


_BOOTS = itertools.count(2)


async def quiet(host: FaultyHost, agent: Agent) -> None:
    """Do nothing."""


async def order_it(host: FaultyHost, agent: Agent) -> None:
    """Ask for transmit."""
    await agent.order(order(lease_s=LEASE_S))


async def order_hw(host: FaultyHost, agent: Agent) -> None:
    """Ask for the cards."""
    await agent.order(order("o1", phase="hw", lease_s=LEASE_S))


async def commit_hw(host: FaultyHost, agent: Agent) -> None:
    """Ask for the cards, and confirm."""
    await order_hw(host, agent)
    await agent.confirm("o1", 1)


async def order_userspace(host: FaultyHost, agent: Agent) -> None:
    """A newer rollout, down to userspace."""
    await agent.order(order("o2", 2, "userspace", LEASE_S))


async def try_it(host: FaultyHost, agent: Agent) -> None:
    """Ask for transmit, with an experiment that has begun: the first block is of userspace."""
    await agent.order(order(lease_s=LEASE_S, experiment=experiment(seed=OFF_FIRST)))
    agent.tick()
    await drained(agent)


async def turn_it(host: FaultyHost, agent: Agent) -> None:
    """The next block."""
    host.now += 10
    agent.tick()
    await drained(agent)


async def commit_it(host: FaultyHost, agent: Agent) -> None:
    """Ask, and confirm."""
    await order_it(host, agent)
    await agent.confirm("o1", 1)


async def module_gone(host: FaultyHost, agent: Agent) -> None:
    """The module is to be loaded first."""
    host.ktls = False


async def order_again(host: FaultyHost, agent: Agent) -> None:
    """A newer rollout."""
    await agent.order(order("o2", 2, lease_s=LEASE_S))


async def confirm_it(host: FaultyHost, agent: Agent) -> None:
    """Confirm what is pending."""
    await agent.confirm("o1", 1)


async def end_it(host: FaultyHost, agent: Agent) -> None:
    """End the experiment, with a longer lease."""
    await agent.extend("o1", 1, 2 * LEASE_S, None, end_experiment=True)


async def extend_it(host: FaultyHost, agent: Agent) -> None:
    """A longer lease."""
    await agent.extend("o1", 1, 2 * LEASE_S)


async def cancel_it(host: FaultyHost, agent: Agent) -> None:
    """Take it back, by name."""
    await agent.cancel("o1", 1)


async def revert_it(host: FaultyHost, agent: Agent) -> None:
    """Take back whatever there is."""
    await agent.revert("test")


async def expire_it(host: FaultyHost, agent: Agent) -> None:
    """Let the lease end."""
    host.now += LEASE_S
    agent.tick()
    await drained(agent)


async def off_it(host: FaultyHost, agent: Agent) -> None:
    """The kill switch."""
    await agent.off("test")


@dataclass(frozen=True)
class Scene:
    """What was before, and what the accident happens in. ``start``: it happens to an agent that starts."""

    name: str
    before: Act
    act: Act = quiet
    start: bool = False


SCENES = (
    Scene("order", quiet, order_it),
    Scene("order with module", module_gone, order_it),
    Scene("order over a committed one", commit_it, order_again),
    Scene("order over a pending one", order_it, order_again),
    Scene("confirm", order_it, confirm_it),
    Scene("extend", order_it, extend_it),
    Scene("order with an experiment", quiet, try_it),
    Scene("the next block", try_it, turn_it),
    Scene("confirm after an experiment", try_it, confirm_it),
    Scene("end an experiment", try_it, end_it),
    Scene("off during an experiment", try_it, off_it),
    Scene("recover an experiment", try_it, start=True),
    Scene("cancel", order_it, cancel_it),
    Scene("revert", commit_it, revert_it),
    Scene("lease ends", order_it, expire_it),
    Scene("off", commit_it, off_it),
    Scene("recover pending", order_it, start=True),
    Scene("recover committed", commit_it, start=True),
    Scene("hw", quiet, order_hw),
    Scene("tx over hw", commit_hw, order_again),
    Scene("userspace over hw", commit_hw, order_userspace),
    Scene("revert hw", commit_hw, revert_it),
    Scene("off in hw", order_hw, off_it),
    Scene("recover pending hw", order_hw, start=True),
    Scene("recover committed hw", commit_hw, start=True),
)


async def play(host: FaultyHost, scene: Scene, accident: Accident) -> Agent | None:
    """Play ``scene`` with ``accident``. Return the agent as it is then, or None if it was killed."""
    agent = host.agent()
    await agent.start()
    await scene.before(host, agent)
    await drained(agent)
    if scene.start:
        agent.close()
        agent = host.agent()
    host.accident = accident
    try:
        if scene.start:
            await agent.start()
        else:
            await scene.act(host, agent)
        await drained(agent)
    except RefusedError:
        await drained(agent)
    except KilledError:
        agent.close()
        return None
    if accident.kind == "kill" and accident.met:  # it hit a thread that nobody waited for
        agent.close()
        return None
    return agent


async def check(host: FaultyHost, scene: Scene, agent: Agent | None, where: str) -> None:
    """Hold the host against its promises, first with what is left of the agent, then with the next one."""
    unconfirmed_at = not committed(host)
    if host.sidecar.effective != "userspace":
        assert host.on_is_durable(), (where, "kTLS, and nothing on disk says so")
        assert host.sidecar.share == 1 or not committed(host), (where, "committed, and an experiment goes on")
    # The lease: by its end (of an extended one, too) and one tick, whether an agent lives or not.
    host.accident.lifted = agent is None
    host.pass_time(2 * LEASE_S)
    if agent is not None:
        agent.tick()
        await drained(agent)
    if unconfirmed_at:
        assert host.sidecar.effective == "userspace", (where, "unconfirmed kTLS beyond its lease")
    if agent is not None:
        host.accident.lifted = True
        host.now += 60
        agent.tick()
        await drained(agent)
        assert host.sidecar.effective == agent.state.wanted, (where, "the level is not reached")
        assert host.sidecar.effective == "userspace" or host.sidecar.share == agent._share(), (where, "nor the share")
        assert host.cards_are_right(agent), (where, "cards", host.cards, host.before_hw, agent.state.wanted)
        agent.close()
    await _next(host, scene, where)


async def _next(host: FaultyHost, scene: Scene, where: str) -> None:
    host.accident = Accident("none")
    was_committed = committed(host)
    flagged = any(host.flags.present())
    agent = host.agent()
    await agent.start()
    await drained(agent)
    assert host.sidecar.effective == agent.state.wanted, (where, "after a restart the level is not reached")
    assert not agent._cards_owed, (where, "after a restart the cards are owed")
    assert host.cards_are_right(agent), (where, "cards after a restart", host.cards, host.before_hw, agent.state)
    assert not (host.state_dir / "intent.json").exists(), (where, "an intent outlived its undoing")
    assert not (host.state_dir / "lease").exists(), (where, "a lease outlived its undoing")
    assert not host.helpers.armed, (where, "the timer ticks on for nothing")
    if agent.state.wanted != "userspace":
        assert was_committed, (where, "unconfirmed kTLS after a restart")
        assert not flagged, (where, "kTLS under a flag")
    if agent.state.epoch > 1:
        try:
            await agent.order(order("old", 1))
        except RefusedError as error:
            assert error.code == "stale_epoch", where
        else:
            raise AssertionError(f"{where}: a stale epoch won")
    await agent.off("after the accident")
    assert host.sidecar.effective == "userspace", (where, "off was blocked")
    assert host.flags.present() == (True, True), where
    await agent.clear()
    await agent.order(order("new", 9))
    assert agent.state.status == "pending", (where, "the host takes no orders any more")
    agent.close()


def committed(host: Host) -> bool:
    """Return whether the disk holds a confirmation for kTLS."""
    durable = Store(str(host.state_dir)).load()
    return durable.record_status == "committed"


def holds(host: Host) -> bool:
    """Return whether what the disk holds as confirmed is what is in force: no other order was applied after it."""
    durable = Store(str(host.state_dir)).load()
    order, intent = durable.record_order, durable.intent
    return durable.record_status == "committed" and (intent is None or (order is not None and order.key == intent.key))


def wall(host: FaultyHost) -> Callable[[], float]:
    """Return the wall clock of ``host``."""
    real = time.time
    return lambda: real() + host.wall_s
