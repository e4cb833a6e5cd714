# SPDX-License-Identifier: Apache-2.0
"""The order machine by itself: parsing, refusals, and a stateful search for broken promises."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from ktls_agent.machine import (
    ArmTimer,
    ClearCame,
    ConfirmCame,
    DisarmTimer,
    DropFlags,
    DropIntent,
    DropLapsed,
    Durable,
    Effect,
    OffCame,
    OffloadOff,
    Order,
    OrderCame,
    PutEpoch,
    PutFlags,
    PutIntent,
    PutRecord,
    RefusedError,
    RevertCame,
    State,
    Ticked,
    Transition,
    recover,
    step,
)
from ktls_agent.machine import (
    TestPassed as SelfTestPassed,
)

PLAN = "0" * 64
TX = Order("a", 1, "tx", 10.0, PLAN)


def code(state: State, event: Any) -> str:
    with pytest.raises(RefusedError) as caught:
        step(state, event)
    return caught.value.code


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": ""}, "bad_order"),
        ({"id": "a b"}, "bad_order"),
        ({"id": "a\n"}, "bad_order"),
        ({"id": "x" * 129}, "bad_order"),
        ({"id": 7}, "bad_order"),
        ({"epoch": 0}, "bad_order"),
        ({"epoch": True}, "bad_order"),
        ({"epoch": 1.0}, "bad_order"),
        ({"epoch": 2**53 + 1}, "bad_order"),
        ({"phase": "warp"}, "unsupported_phase"),
        ({"phase": "HW"}, "unsupported_phase"),
        ({"phase": "on"}, "unsupported_phase"),
        ({"phase": ["tx"]}, "unsupported_phase"),
        ({"lease_s": 0}, "bad_order"),
        ({"lease_s": float("nan")}, "bad_order"),
        ({"lease_s": float("inf")}, "bad_order"),
        ({"lease_s": "60"}, "bad_order"),
        ({"lease_s": True}, "bad_order"),
        ({"lease_s": 86401}, "bad_order"),
        ({"plan_sha256": "AB" * 32}, "bad_order"),
        ({"plan_sha256": "ab"}, "bad_order"),
        ({"extra": 1}, "bad_order"),
    ],
)
def test_malformed_orders_are_refused(change: dict[str, Any], expected: str) -> None:
    good = TX.as_dict()
    assert Order.parse(good) == TX
    with pytest.raises(RefusedError) as caught:
        Order.parse({**good, **change})
    assert caught.value.code == expected
    assert "\n" not in caught.value.message


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text() | st.floats(), st.lists, max_leaves=5))
def test_whatever_comes_is_an_order_or_refused(raw: Any) -> None:
    for candidate in (raw, dict.fromkeys(TX.as_dict(), raw)):
        with pytest.raises(RefusedError):
            Order.parse(candidate)


def test_missing_keys_are_named() -> None:
    with pytest.raises(RefusedError, match="lease_s"):
        Order.parse({key: value for key, value in TX.as_dict().items() if key != "lease_s"})


def test_order_writes_epoch_and_intent_before_the_mode() -> None:
    transition = step(State(), OrderCame(TX, 5.0, False, True))
    assert transition.prepare == (
        PutEpoch(1), PutIntent(TX, 15.0, 5.0), ArmTimer(), DropLapsed(), OffloadOff(),
    )  # fmt: skip
    assert transition.state.status == "pending"
    assert transition.state.wanted == "tx"


def test_refusals_of_an_order() -> None:
    pending = step(State(), OrderCame(TX, 0.0, False, True)).state
    newer = dataclasses.replace(TX, id="b", epoch=2)
    assert code(State(epoch=2), OrderCame(TX, 0.0, False, True)) == "stale_epoch"
    assert code(State(), OrderCame(TX, 0.0, True, True)) == "off_latched"
    assert code(State(latched=True), OrderCame(TX, 0.0, False, True)) == "off_latched"
    assert code(State(), OrderCame(TX, 0.0, False, False)) == "no_ktls"
    assert code(pending, OrderCame(dataclasses.replace(TX, id="b"), 0.0, False, True)) == "order_pending"
    assert code(pending, OrderCame(dataclasses.replace(TX, lease_s=99.0), 0.0, False, True)) == "bad_order"
    assert step(pending, OrderCame(TX, 3.0, False, True)).state is pending, "the same order again changes nothing"
    assert step(pending, OrderCame(newer, 3.0, False, True)).state.order == newer


def test_userspace_order_needs_no_ktls_and_no_clear_flag() -> None:
    userspace = dataclasses.replace(TX, phase="userspace")
    assert step(State(latched=True, flag_seen=True), OrderCame(userspace, 0.0, True, False)).state.status == "pending"


def test_refusals_of_a_confirmation() -> None:
    untested = step(State(), OrderCame(TX, 0.0, False, True)).state
    pending = step(untested, SelfTestPassed(TX)).state
    assert code(untested, ConfirmCame("a", 1, 1.0, False)) == "not_ready"
    assert code(pending, ConfirmCame("b", 1, 1.0, False)) == "wrong_order"
    assert code(pending, ConfirmCame("a", 2, 1.0, False)) == "wrong_order"
    assert code(pending, ConfirmCame("a", 1, 10.0, False)) == "lease_expired"
    assert code(pending, ConfirmCame("a", 1, 1.0, True)) == "off_latched"
    assert code(State(), ConfirmCame("a", 1, 1.0, False)) == "wrong_order"
    reverted = step(pending, RevertCame("x")).state
    assert code(reverted, ConfirmCame("a", 1, 1.0, False)) == "not_pending"
    committed = step(pending, ConfirmCame("a", 1, 9.9, False))
    assert committed.prepare == (PutRecord("committed", TX),)
    assert committed.follow == (DropIntent(), DisarmTimer())
    assert step(committed.state, ConfirmCame("a", 1, 99.0, False)).state is committed.state


def test_a_reverted_order_is_never_resurrected() -> None:
    reverted = step(step(State(), OrderCame(TX, 0.0, False, True)).state, RevertCame("x")).state
    again = step(reverted, OrderCame(TX, 0.0, False, True))
    assert again.state is reverted
    assert again.prepare == again.follow == ()


def test_a_late_self_test_of_a_reverted_order_is_refused() -> None:
    reverted = step(step(State(), OrderCame(TX, 0.0, False, True)).state, OffCame("enough")).state
    assert code(reverted, SelfTestPassed(TX)) == "apply_failed"


def test_flags_removed_by_hand_switch_nothing_on() -> None:
    committed = State("committed", TX, 1)
    seen = step(committed, Ticked(0.0, True, False, "by hand"))
    assert seen.state.wanted == "userspace"
    assert seen.state.reason == "off: by hand"
    assert PutFlags("by hand") in seen.follow, "the flag is copied to where it survives"
    assert step(seen.state, Ticked(0.0, False)).state.wanted == "userspace"


@pytest.mark.parametrize(("boot", "reason"), [("boot", "agent_restarted"), ("other", "rebooted")])
def test_recovery_undoes_an_intent(boot: str, reason: str) -> None:
    durable = Durable(1, TX, "boot", "committed", dataclasses.replace(TX, id="old"))
    transition = recover(durable, boot, False)
    assert (transition.state.status, transition.state.reason) == ("reverted", reason)
    assert transition.state.wanted == "userspace"


def test_recovery_keeps_what_was_confirmed_just_before_the_crash() -> None:
    transition = recover(Durable(1, TX, "boot", "committed", TX), "other", False)
    assert transition.state.wanted == "tx"
    assert DropIntent() in transition.follow


@pytest.mark.parametrize("name", ["intent.json", "order.json"])
def test_recovery_from_damaged_state_is_userspace(name: str) -> None:
    transition = recover(Durable(3, None, "", "committed", TX, None, (name,)), "boot", False)
    assert (transition.state.wanted, transition.state.reason) == ("userspace", "state_damaged")
    assert transition.state.epoch == 3


def test_recovery_obeys_the_flag() -> None:
    transition = recover(Durable(1, None, "", "committed", TX), "boot", True)
    assert (transition.state.status, transition.state.wanted) == ("reverted", "userspace")


def test_the_flag_and_the_end_of_a_lease_in_one_tick() -> None:
    order = dataclasses.replace(TX, phase="userspace")
    pending = step(State(), OrderCame(order, 0.0, False, True)).state
    after = step(pending, Ticked(10.0, True)).state
    assert (after.latched, after.status, after.reason) == (True, "reverted", "lease_expired")


class Machine(RuleBasedStateMachine):
    """Random orders, confirmations, faults, restarts and time against an ideal disk."""

    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.disk = Durable()
        self.flag = False
        self.now = 0.0
        self.best_epoch = 0
        self.deadlines: dict[tuple[str, int], float] = {}
        self.confirmed: set[tuple[str, int]] = set()
        self.ids = 0

    def write(self, effect: Effect) -> None:
        if isinstance(effect, PutEpoch):
            self.disk = dataclasses.replace(self.disk, epoch=effect.epoch)
        elif isinstance(effect, PutIntent):
            self.disk = dataclasses.replace(self.disk, intent=effect.order, intent_boot_id="b")
        elif isinstance(effect, DropIntent):
            self.disk = dataclasses.replace(self.disk, intent=None)
        elif isinstance(effect, PutRecord):
            self.disk = dataclasses.replace(
                self.disk, record_status=effect.status, record_order=effect.order, record_reason=effect.reason
            )
        elif isinstance(effect, PutFlags):
            self.flag = True
        elif isinstance(effect, DropFlags):
            self.flag = False

    def take(self, transition: Transition, survive: int = 99) -> None:
        """Carry out; after ``survive`` writes the agent is killed and starts again."""
        for done, effect in enumerate(transition.prepare):
            if done >= survive:
                return self.start()
            self.write(effect)
        self.state = transition.state
        for done, effect in enumerate(transition.follow, len(transition.prepare)):
            if done >= survive:
                return self.start()
            self.write(effect)
        return None

    def start(self) -> None:
        self.take(recover(self.disk, "b", self.flag))

    def send(self, event: Any, survive: int = 99) -> bool:
        try:
            transition = step(self.state, event)
        except RefusedError:
            return False
        self.take(transition, survive)
        return True

    @rule(
        epoch=st.integers(1, 6),
        lease=st.floats(1, 20),
        phase=st.sampled_from(["userspace", "tx"]),
        same=st.booleans(),
        survive=st.integers(0, 6),
    )
    def order(self, epoch: int, lease: float, phase: str, same: bool, survive: int) -> None:
        if same and self.state.order is not None:
            new = self.state.order
        else:
            self.ids += 1
            new = Order(f"o{self.ids}", epoch, phase, lease, PLAN)
        before = self.state
        if self.send(OrderCame(new, self.now, self.flag, True), survive):
            assert new.epoch >= self.best_epoch, "a stale epoch won"
            if before is not self.state and self.state.order == new:
                self.best_epoch = new.epoch
                self.deadlines[new.key] = self.now + new.lease_s
        elif phase == "tx" and self.flag and not same:
            assert self.state is before

    @rule()
    def self_test_passes(self) -> None:
        if self.state.order is not None:
            self.send(SelfTestPassed(self.state.order))

    @rule(survive=st.integers(0, 3))
    @precondition(lambda self: self.state.status == "pending")
    def confirm(self, survive: int) -> None:
        assert self.state.order is not None
        key = self.state.order.key
        if self.state.tested and self.now < (self.state.deadline_s or 0):
            self.confirmed.add(key)
        self.send(ConfirmCame(*key, self.now, self.flag), survive)

    @rule()
    def revert(self) -> None:
        assert self.send(RevertCame("test"))
        assert self.state.wanted == "userspace"

    @rule(survive=st.integers(0, 5))
    def off(self, survive: int) -> None:
        assert self.send(OffCame("test"), survive), "OFF was refused"
        if survive:
            assert self.state.wanted == "userspace"
            assert self.flag

    @rule()
    def flag_appears(self) -> None:
        self.flag = True
        self.tick(0.25)
        assert self.state.wanted == "userspace"

    @rule()
    def clear(self) -> None:
        before = self.state.wanted
        self.send(ClearCame())
        assert self.state.wanted == before == "userspace" or not self.state.latched

    @rule(seconds=st.floats(0, 15))
    def tick(self, seconds: float) -> None:
        self.now += seconds
        self.send(Ticked(self.now, self.flag))
        if self.state.status == "pending":
            assert self.state.deadline_s is not None
            assert self.now < self.state.deadline_s, "pending beyond its lease"

    @rule()
    def killed(self) -> None:
        self.start()

    @invariant()
    def on_only_with_durable_intent_or_commitment(self) -> None:
        if self.state.wanted == "userspace":
            return
        assert self.state.order is not None
        held = self.disk.intent == self.state.order or (
            self.disk.record_status == "committed" and self.disk.record_order == self.state.order
        )
        assert held, "on, and nothing on disk would undo it"

    @invariant()
    def unconfirmed_does_not_outlive_a_restart(self) -> None:
        after = recover(self.disk, "b", self.flag).state
        if after.wanted != "userspace":
            assert after.order is not None
            assert after.order.key in self.confirmed

    @invariant()
    def off_is_off(self) -> None:
        if self.state.latched:
            assert self.state.wanted == "userspace"
        assert not (self.flag and recover(self.disk, "b", True).state.wanted != "userspace")

    @invariant()
    def the_high_water_mark_only_grows(self) -> None:
        assert self.state.epoch >= self.best_epoch
        assert recover(self.disk, "b", self.flag).state.epoch >= self.best_epoch


Machine.TestCase.settings = settings(max_examples=150, stateful_step_count=30)
TestMachine = Machine.TestCase
