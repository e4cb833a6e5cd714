# SPDX-License-Identifier: Apache-2.0
"""The agent with all its hands, in any order of verbs, accidents, restarts, power cuts and time."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ktls_agent.core import Agent
from ktls_agent.machine import RefusedError
from ktls_host.jsonsock import Peer

from .conftest import KilledError, drained, experiment, order
from .faults import Accident, FaultyHost, holds

WORDS = {
    "stale_epoch", "off_latched", "order_pending", "bad_order", "stuck", "no_ktls", "timer_failed", "module_failed",
    "nic_failed", "state_write_failed", "apply_failed", "sidecar_unreachable", "lease_expired", "wrong_order",
    "not_pending", "same_connection", "not_ready", "lease_too_long", "clear_failed",
    "experiment_not_ended",
}  # fmt: skip


class Hosts(RuleBasedStateMachine):
    """One host. Rules are verbs and accidents; what is promised is checked after each of them."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
        self.loop = asyncio.new_event_loop()
        self.host = FaultyHost(self.directory / "host")
        self.host.threads = False
        self.agent: Agent | None = None
        self.best_epoch = 0
        self.connection = self.ordered_over = 0
        self.confirmed: set[tuple[str, int]] = set()
        self.off_done = False
        self.ids = 0

    def teardown(self) -> None:
        if self.agent is not None:
            self.agent.close()
            self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        shutil.rmtree(self.directory)

    def do(self, work: Awaitable[Any]) -> str:
        """Let the agent do ``work``; return the code of its refusal, "" if there was none, or "killed"."""

        async def main() -> str:
            code = ""
            try:
                await work
            except RefusedError as error:
                assert error.code in WORDS
                assert "\n" not in error.message
                code = error.code
            assert self.agent is not None
            await drained(self.agent)
            return code

        try:
            code = self.loop.run_until_complete(main())
        except KilledError:
            code = "killed"
        if self.host.accident.kind == "kill" and self.host.accident.met:
            code = "killed"
        if code == "killed":
            self.died()
        return code

    def died(self) -> None:
        assert self.agent is not None
        self.agent.close()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.agent = None
        self.host.accident = Accident("none")

    @rule()
    @precondition(lambda self: self.agent is None)
    def start(self) -> None:
        self.agent = self.host.agent()
        self.do(self.agent.start())

    @rule(kind=st.sampled_from(["kill", "once", "lasting", "hang", "wall+", "frozen"]), at=st.integers(0, 14))
    def accident(self, kind: str, at: int) -> None:
        self.host.accident = Accident(kind, at)

    @rule()
    def repaired(self) -> None:
        self.host.accident = Accident("none")

    @precondition(lambda self: self.agent is not None)
    @rule(
        epoch=st.integers(1, 5),
        lease=st.integers(5, 50),
        phase=st.sampled_from(["userspace", "tx", "hw"]),
        method=st.sampled_from([None, "switchback", "connections"]),
    )
    def order(self, epoch: int, lease: int, phase: str, method: str | None) -> None:
        assert self.agent is not None
        self.ids += 1
        self.connection += 1
        trial = {} if method is None or phase == "userspace" else {"experiment": experiment(method, seed=self.ids)}
        raw = order(f"o{self.ids}", epoch, phase, lease, **trial)
        flagged = any(self.host.flags.present())
        code = self.do(self.agent.order(raw, Peer(1, 0, 0, self.connection)))
        if self.agent is not None and self.agent.state.order and self.agent.state.order.id == raw["id"]:
            self.ordered_over = self.connection
        if not code:
            assert epoch >= self.best_epoch, "a stale epoch won"
            assert not (flagged and phase != "userspace"), "kTLS was ordered under a flag"
            self.best_epoch = epoch

    @precondition(lambda self: self.agent is not None and self.agent.state.order is not None)
    @rule(new=st.booleans())
    def confirm(self, new: bool) -> None:
        assert self.agent is not None
        assert self.agent.state.order is not None
        pending = self.agent.state.status == "pending"
        key = self.agent.state.order.key
        self.connection += new
        if new:
            self.confirmed.add(key)
        over = self.connection if new else self.ordered_over
        code = self.do(self.agent.confirm(*key, Peer(1, 0, 0, over)))
        if pending and not new and self.agent is not None:
            assert code, "confirmed over the connection of the order"

    @precondition(lambda self: self.agent is not None and self.agent.state.order is not None)
    @rule(lease=st.integers(5, 90), end=st.booleans())
    def extend(self, lease: int, end: bool) -> None:
        assert self.agent is not None
        assert self.agent.state.order is not None
        before = self.agent.state.deadline_s
        if not self.do(self.agent.extend(*self.agent.state.order.key, lease, None, end)) and self.agent is not None:
            assert before is None or self.agent.state.deadline_s is None or self.agent.state.deadline_s >= before

    @precondition(lambda self: self.agent is not None and self.agent.state.order is not None)
    @rule()
    def cancel(self) -> None:
        assert self.agent is not None
        assert self.agent.state.order is not None
        if not self.do(self.agent.cancel(*self.agent.state.order.key)):
            assert self.host.sidecar.effective == "userspace"

    @precondition(lambda self: self.agent is not None)
    @rule()
    def revert(self) -> None:
        assert self.agent is not None
        assert self.do(self.agent.revert("test")) in ("", "killed"), "a revert was refused"
        if self.agent is not None:
            assert self.host.sidecar.effective == "userspace"

    @precondition(lambda self: self.agent is not None)
    @rule()
    def off(self) -> None:
        assert self.agent is not None
        code = self.do(self.agent.off("test"))
        assert code in ("", "killed"), "OFF was refused"
        if not code:
            assert self.host.sidecar.effective == "userspace"
            self.off_done = self.host.flags.present() == (True, True)

    @precondition(lambda self: self.agent is not None)
    @rule()
    def clear(self) -> None:
        assert self.agent is not None
        before = self.host.sidecar.effective
        self.off_done = False
        self.do(self.agent.clear())
        assert self.host.sidecar.effective in (before, "userspace"), "clear switched something on"

    @rule(seconds=st.floats(0.25, 60))
    def time_passes(self, seconds: float) -> None:
        self.host.pass_time(seconds)
        if self.agent is None:
            return

        async def tick(agent: Agent) -> None:
            agent.tick()

        self.do(tick(self.agent))

    @rule()
    @precondition(lambda self: self.agent is not None)
    def killed(self) -> None:
        self.died()

    @rule()
    def power_cut(self) -> None:
        if self.agent is not None:
            self.died()
        self.host.power_cut()

    @invariant()
    def on_only_with_something_durable(self) -> None:
        if self.host.sidecar.effective != "userspace":
            assert self.host.on_is_durable()

    @invariant()
    def unconfirmed_is_off_by_its_deadline_and_a_tick(self) -> None:
        if self.host.sidecar.effective == "userspace" or holds(self.host):
            return
        lease = (self.host.state_dir / "lease").read_text()
        assert self.host.helpers.armed, "nobody but the agent guards the lease"
        assert self.host.now < float(lease.rpartition("=")[2]) + 0.25

    @invariant()
    def cards_are_what_the_phase_wants_or_it_is_worked_on(self) -> None:
        if self.agent is not None and not any(self.host.flags.present()):
            assert self.host.cards_are_right(self.agent), (self.host.cards, self.host.before_hw, self.agent.state)

    @invariant()
    def hw_without_a_card_that_was_switched_on_is_not_in_force(self) -> None:
        if self.agent is not None and self.agent.state.wanted == "hw" and self.agent.state.tested:
            assert self.host.before_hw is not None or self.agent._cards_owed

    @invariant()
    def what_is_committed_is_whole(self) -> None:
        if holds(self.host) and self.host.sidecar.effective != "userspace":
            assert self.host.sidecar.share == 1, "committed, and an experiment goes on"

    @invariant()
    def only_what_was_confirmed_is_committed(self) -> None:
        if self.agent is not None and self.agent.state.status == "committed":
            assert self.agent.state.order is not None
            assert self.agent.state.order.key in self.confirmed

    @invariant()
    def off_stays_off(self) -> None:
        if self.off_done or any(self.host.flags.present()):
            assert self.host.sidecar.effective == "userspace"

    @invariant()
    def the_high_water_mark_is_not_forgotten(self) -> None:
        if self.agent is not None and not any("damaged" in problem for problem in self.agent.problems):
            assert self.agent.state.epoch >= self.best_epoch


Hosts.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestHosts = Hosts.TestCase
