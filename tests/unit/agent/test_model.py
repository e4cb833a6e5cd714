# SPDX-License-Identifier: Apache-2.0
"""Every history of one host with up to two accidents, by exhaustion; and wrong machines, which must be found out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ktls_agent.machine import (
    ArmTimer,
    ConfirmCame,
    Durable,
    Event,
    OffloadOff,
    OffloadOn,
    OrderCame,
    PutIntent,
    State,
    SyncMode,
    Ticked,
    Transition,
    Undo,
    recover,
    step,
)

from .model import BrokenPromiseError, Model, rearranged


@pytest.mark.parametrize(
    ("verbs", "faults", "ticks", "at_least"),
    [
        ("first confirm", 2, 3, 5_000),
        ("first extend confirm", 2, 3, 10_000),
        ("first confirm off", 2, 2, 20_000),
        ("first confirm revert", 2, 2, 10_000),
        ("first confirm second", 1, 2, 5_000),
        ("first second stale", 2, 1, 5_000),
    ],
)
def test_no_history_breaks_a_promise(verbs: str, faults: int, ticks: int, at_least: int) -> None:
    assert Model(verbs, faults, float(ticks)).search() > at_least, "the search has met too little of the world"


@pytest.mark.parametrize(
    ("verbs", "phases", "faults", "ticks", "at_least"),
    [
        ("first confirm", ("hw", "tx"), 2, 3, 5_000),
        ("first confirm off", ("hw", "tx"), 1, 2, 3_000),
        ("first confirm second", ("hw", "tx"), 1, 2, 3_000),
        ("first confirm second", ("tx", "hw"), 1, 2, 3_000),
        ("first confirm second", ("hw", "userspace"), 1, 2, 3_000),
        ("first confirm revert", ("hw", "tx"), 1, 2, 3_000),
    ],
)
def test_no_history_leaves_a_card_on(
    verbs: str, phases: tuple[str, str], faults: int, ticks: int, at_least: int
) -> None:
    assert Model(verbs, faults, float(ticks), phases=phases).search() > at_least, "the search has met too little"


def test_a_machine_that_switches_cards_on_before_anything_is_durable_is_found_out() -> None:
    def wrong(state: State, event: Event) -> Transition:
        right = step(state, event)
        if not isinstance(event, OrderCame):
            return right
        rest = tuple(effect for effect in right.follow if not isinstance(effect, OffloadOn))
        return rearranged(right, (OffloadOn(), *right.prepare), rest)

    with pytest.raises(BrokenPromiseError, match="nothing on disk would take that back"):
        Model("first confirm", 1, 3.0, step=wrong, phases=("hw", "tx")).search()


def test_a_machine_that_does_not_look_after_cards_when_it_starts_is_found_out() -> None:
    """Phase tx has been confirmed, and a boot gives the cards their drivers' way, which is on."""

    def wrong(durable: Durable, boot: str, flag: bool, lapsed: bool) -> Transition:
        right = recover(durable, boot, flag, lapsed)
        return rearranged(right, (), tuple(effect for effect in right.follow if not isinstance(effect, OffloadOff)))

    with pytest.raises(BrokenPromiseError, match="the cards are on in phase tx"):
        Model("first confirm", 1, 2.0, recover=wrong).search()


def late(*kinds: type) -> Model:
    """A machine that applies first and writes these ``kinds`` of effects afterwards."""

    def wrong(state: State, event: Event) -> Transition:
        right = step(state, event)
        if not isinstance(event, OrderCame):
            return right
        before = tuple(effect for effect in right.prepare if not isinstance(effect, kinds))
        after = tuple(effect for effect in right.prepare if isinstance(effect, kinds))
        apply = tuple(effect for effect in right.follow if isinstance(effect, SyncMode))
        rest = tuple(effect for effect in right.follow if not isinstance(effect, SyncMode))
        return rearranged(right, before, (*apply, *after, *rest))

    return Model("first confirm", 1, 3.0, step=wrong)


@pytest.mark.parametrize(
    ("kinds", "says"), [((PutIntent,), "nothing on disk would undo it"), ((ArmTimer,), "second guardian")]
)
def test_a_machine_that_applies_before_what_undoes_it_is_found_out(kinds: tuple[type, ...], says: str) -> None:
    with pytest.raises(BrokenPromiseError, match=says):
        late(*kinds).search()


def test_a_machine_that_forgets_the_intent_before_the_outcome_is_durable_is_found_out() -> None:
    def wrong(state: State, event: Event) -> Transition:
        right = step(state, event)
        if not isinstance(event, ConfirmCame):
            return right
        return rearranged(right, (right.follow[0], *right.prepare), right.follow[1:])

    with pytest.raises(BrokenPromiseError, match=r"nothing on disk would undo it|without a lease"):
        Model("first confirm", 1, 3.0, step=wrong).search()


def test_a_machine_that_forgets_the_intent_before_the_datapath_is_back_is_found_out() -> None:
    def wrong(state: State, event: Event) -> Transition:
        right = step(state, event)
        last = tuple(effect for effect in right.follow if isinstance(effect, Undo))
        first = tuple(effect for effect in right.follow if not isinstance(effect, Undo))
        return rearranged(right, right.prepare, (*first, *last))

    with pytest.raises(BrokenPromiseError, match=r"nothing on disk would undo it|without a lease"):
        Model("first revert", 1, 3.0, step=wrong).search()


def test_an_agent_that_does_not_look_at_its_intent_when_it_starts_is_found_out() -> None:
    def wrong(durable: Durable, boot: str, flag: bool, lapsed: bool) -> Transition:
        if durable.intent is None:
            return recover(durable, boot, flag, lapsed)
        believed = replace(durable, intent=None, record_status="committed", record_order=durable.intent)
        return recover(believed, boot, flag, lapsed)

    with pytest.raises(BrokenPromiseError):
        Model("first confirm", 1, 3.0, recover=wrong).search()


def test_each_guardian_of_the_lease_is_enough_by_itself_while_it_lives() -> None:
    def no_expiry(state: State, event: Event) -> Transition:
        return step(state, replace(event, now_s=0.0)) if isinstance(event, Ticked) else step(state, event)

    assert Model("first", 1, 4.0, step=no_expiry).search() > 500, "the timer alone"
    alone = Model("first", 0, 4.0)
    alone.timer_works = False
    assert alone.search() > 20, "the agent alone, while nothing happens to it"
    alone = Model("first", 1, 4.0)
    alone.timer_works = False
    with pytest.raises(BrokenPromiseError, match="after its deadline"):
        alone.search()
