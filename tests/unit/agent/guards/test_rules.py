# SPDX-License-Identifier: Apache-2.0
"""When a rule trips and when it does not, over series of readings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.guards.model import GROUPS, KERNEL, Reading
from ktls_agent.guards.rules import RULES, Rule, Setting, Watch, Watcher

RULE = {rule.name: rule for rule in RULES}
EVENT, ALL = "TlsDecryptError", "TlsRxSw"
DECRYPT = RULE["decrypt_error"]

growth = st.integers(0, 40)
#: Steps of a host: seconds until the next reading, errors, connections, and whether the kernel could be read.
steps = st.lists(st.tuples(st.integers(1, 40), growth, growth, st.booleans()), min_size=1, max_size=60)


def readings(moves: Sequence[tuple[int, int, int, bool]]) -> list[Reading]:
    """The readings of a host on which that happened."""
    at, seen, errors, opened = 1000.0, 1000.0, 7, 100
    found = [Reading(at, {EVENT: errors, ALL: opened}, dict.fromkeys(GROUPS, seen))]
    for seconds, more, connections, read in moves:
        at, errors, opened = at + seconds, errors + more, opened + connections
        seen = at if read else seen
        found.append(Reading(at, {EVENT: errors, ALL: opened}, dict.fromkeys(GROUPS, seen)))
    return found


def first_trip(rule: Rule, setting: Setting, series: Sequence[Reading]) -> float:
    """When it trips for the first time; infinity: never."""
    watcher = Watcher(rule, setting)
    return next((reading.at_s for reading in series if watcher.look(reading)), float("inf"))


settings = st.builds(
    Setting,
    events=st.integers(1, 60),
    ratio=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    window_s=st.sampled_from([1.0, 10.0, 60.0]),
    windows=st.integers(1, 3),
    stale_s=st.sampled_from([5.0, 60.0]),
)


@given(st.lists(st.integers(1, 100), max_size=40))
def test_constant_counters_never_trip(waits: list[int]) -> None:
    watch, at = Watch({}), 0.0
    values = dict.fromkeys((name for rule in RULES for name in (*rule.counts, *rule.among) if not rule.gauge), 10**6)
    for wait in waits:
        at += wait
        assert watch.look(Reading(at, {**values, "probe_failed_in_row": 0}, dict.fromkeys(GROUPS, at))) == []


@given(steps, settings, st.integers(0, 60), st.sampled_from([0.0, 0.2, 0.5]))
def test_a_higher_threshold_never_trips_earlier(
    moves: list[tuple[int, int, int, bool]], setting: Setting, more: int, ratio: float
) -> None:
    series = readings(moves)
    stricter = replace(setting, events=setting.events + more, ratio=min(1.0, setting.ratio + ratio))
    assert first_trip(DECRYPT, stricter, series) >= first_trip(DECRYPT, setting, series)


@given(steps, settings)
def test_more_windows_never_trip_earlier(moves: list[tuple[int, int, int, bool]], setting: Setting) -> None:
    series = readings(moves)
    assert first_trip(DECRYPT, replace(setting, windows=setting.windows + 1), series) >= first_trip(
        DECRYPT, setting, series
    )


@given(steps, settings)
def test_a_trip_has_the_events_that_it_tells_of(moves: list[tuple[int, int, int, bool]], setting: Setting) -> None:
    """What trips was really there: at least ``events`` and ``ratio`` between the first reading and that one."""
    series = readings(moves)
    at = first_trip(DECRYPT, setting, series)
    for reading in series:
        if reading.at_s == at:
            errors = reading.values[EVENT] - series[0].values[EVENT]
            assert errors >= setting.events
            assert at - reading.seen_s[KERNEL] <= setting.stale_s, "no trip on what was not read"


def series_of(per_look: Sequence[tuple[int, int]], every_s: float = 5.0) -> list[Reading]:
    """One reading every ``every_s`` with (errors, connections) in each step."""
    return readings([(int(every_s), errors, opened, True) for errors, opened in per_look])


def test_one_burst_is_not_two_windows() -> None:
    setting = Setting(20, window_s=60, windows=2)
    burst = [(0, 10)] * 3 + [(500, 10)] + [(0, 10)] * 60
    assert first_trip(DECRYPT, setting, series_of(burst)) == float("inf")
    assert first_trip(DECRYPT, replace(setting, windows=1), series_of(burst)) == 1020.0
    lasting = [(0, 10)] * 3 + [(5, 10)] * 60
    # Four steps until twenty errors, then a whole window more.
    assert first_trip(DECRYPT, setting, series_of(lasting)) == 1000 + 5 * (3 + 4) + 60


def test_errors_are_weighed_against_traffic() -> None:
    setting = DECRYPT.default
    assert (setting.ratio, setting.windows) == (0.1, 2)
    assert first_trip(DECRYPT, setting, series_of([(5, 100)] * 60)) == float("inf"), "a twentieth of all connections"
    assert first_trip(DECRYPT, setting, series_of([(5, 40)] * 60)) < float("inf")
    assert first_trip(DECRYPT, setting, series_of([(1, 0)] * 60)) == float("inf"), "twelve a minute are too few"


def test_one_packet_of_a_client_trips_nothing() -> None:
    """Whatever a client can cause: one event, on an idle host, where it is all there is."""
    for rule in RULES:
        if rule.outside:
            values = dict.fromkeys((*rule.counts, *rule.among), 0.0)
            series = [Reading(0.0, values, dict.fromkeys(GROUPS, 0.0))]
            series += [
                Reading(at, dict.fromkeys(values, 1.0), dict.fromkeys(GROUPS, at))
                for at in map(float, range(5, 600, 5))
            ]
            assert first_trip(rule, rule.default, series) == float("inf"), rule.name


def test_what_no_client_can_cause_trips_at_once() -> None:
    for name in ("probe_damaged", "kernel_warning"):
        rule = RULE[name]
        before = Reading(0.0, {rule.counts[0]: 3.0}, dict.fromkeys(GROUPS, 0.0))
        after = Reading(5.0, {rule.counts[0]: 4.0}, dict.fromkeys(GROUPS, 5.0))
        assert first_trip(rule, rule.default, [before, after]) == 5.0, name
        assert not rule.outside


def test_a_row_of_failed_probes() -> None:
    rule = RULE["probe_failed"]
    watcher = Watcher(rule, rule.default)

    def look(at: float, row: int) -> bool:
        return watcher.look(Reading(at, {"probe_failed_in_row": row}, dict.fromkeys(GROUPS, at))) is not None

    assert not any([look(0, 0), look(30, 1), look(60, 2), look(90, 0), look(120, 1), look(150, 2)])
    assert look(180, 3)


def test_blind_is_not_healthy_and_not_a_trip() -> None:
    watcher = Watcher(DECRYPT, Setting(10, window_s=10, windows=2, stale_s=5))
    assert watcher.judgement.state == "blind", "before anything was read"
    seen = {KERNEL: 100.0}
    watcher.look(Reading(100.0, {EVENT: 0, ALL: 0}, seen))
    watcher.look(Reading(102.0, {EVENT: 50, ALL: 50}, {KERNEL: 102.0}))
    assert watcher.judgement.state == "over"
    for at in (108.0, 120.0, 140.0):
        assert watcher.look(Reading(at, {EVENT: 50, ALL: 50}, {KERNEL: 102.0})) is None
        assert watcher.judgement.state == "blind"
        assert watcher.judgement.over_s == 102.0, "nothing healthy was seen since"
    assert watcher.look(Reading(141.0, {EVENT: 90, ALL: 90}, {KERNEL: 141.0})) is not None


def test_a_kernel_without_the_counters_is_absent() -> None:
    watcher = Watcher(RULE["rekey_error"], RULE["rekey_error"].default)
    watcher.look(Reading(1.0, {EVENT: 0}, {KERNEL: 1.0}))
    assert watcher.judgement.state == "absent"


def test_a_counter_that_appears_has_not_grown() -> None:
    watcher = Watcher(DECRYPT, Setting(1))
    assert watcher.look(Reading(1.0, {EVENT: 5}, {KERNEL: 1.0})) is None
    assert watcher.look(Reading(2.0, {EVENT: 5, ALL: 900}, {KERNEL: 2.0})) is None
    other = Watcher(RULE["rekey_error"], Setting(1))
    other.look(Reading(1.0, {"TlsTxRekeyError": 0}, {KERNEL: 1.0}))
    assert other.look(Reading(2.0, {"TlsTxRekeyError": 0, "TlsRxRekeyError": 70}, {KERNEL: 2.0})) is None


def test_cooldown_and_disabled() -> None:
    rule, setting = RULE["kernel_warning"], Setting(1, window_s=10, cooldown_s=100)
    watcher = Watcher(rule, setting)
    trips = [at for at in range(0, 400, 5) if watcher.look(Reading(at, {"kernel_warnings": at}, {rule.group: at}))]
    assert trips == [5, 105, 205, 305]
    off = Watcher(rule, replace(setting, enabled=False))
    assert not any(off.look(Reading(at, {"kernel_warnings": at}, {rule.group: at})) for at in range(0, 400, 5))
    assert off.judgement.state == "disabled"


def test_a_new_order_starts_from_nothing() -> None:
    watch = Watch({})
    for at in (0.0, 5.0):
        watch.look(Reading(at, {"kernel_warnings": 0}, dict.fromkeys(GROUPS, at)))
    watch.restart()
    assert watch.look(Reading(10.0, {"kernel_warnings": 9}, dict.fromkeys(GROUPS, 10.0))) == []
    assert len(watch.look(Reading(15.0, {"kernel_warnings": 10}, dict.fromkeys(GROUPS, 15.0)))) == 1


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_the_detail_has_the_numbers(rule: Rule) -> None:
    watcher = Watcher(rule, replace(rule.default, windows=1))
    names = (*rule.counts, *rule.among)
    big = rule.default.events * 2
    watcher.look(Reading(0.0, dict.fromkeys((*names, *rule.less), 0.0), dict.fromkeys(GROUPS, 0.0)))
    idle = dict.fromkeys(rule.less, 0.0)
    trip = watcher.look(Reading(30.0, {**dict.fromkeys(names, big), **idle}, dict.fromkeys(GROUPS, 30.0)))
    assert trip is not None
    assert f"{big * len(rule.counts):.0f} {rule.unit}" in trip.detail
    assert "\n" not in trip.detail
    assert f"limit {rule.default.events:.0f}" in trip.detail
