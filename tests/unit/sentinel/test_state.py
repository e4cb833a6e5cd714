# SPDX-License-Identifier: Apache-2.0
"""What the sentinel may claim, and the pace of its downloads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_sentinel import cli
from ktls_sentinel.download import Download
from ktls_sentinel.pace import JITTER, Schedule
from ktls_sentinel.state import TargetState, took, why_not_armed, window_s
from ktls_sentinel.watch import Seen

DONE = Download("TLSv1.2", "ECDHE-ECDSA-AES128-GCM-SHA256", 1000)


def seen(*pieces: tuple[int, int]) -> Seen:
    found = Seen()
    for seq, length in pieces:
        found.packets += 1
        found.payload_bytes += length
        found.coverage.add(seq, length)
    return found


def test_a_download_counts_when_all_of_it_was_seen() -> None:
    state = took(TargetState(), 50.0, DONE, seen((1, 600), (401, 600)), "eth0")
    assert state == TargetState(1, 0, 50.0, None, "TLSv1.2", DONE.cipher, 2, 1200)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (seen(), "none of its packets came in on eth0"),
        (seen((1, 600)), "only 600 of 1000 bytes were seen on eth0"),
        (seen((1, 600), (1, 600)), "only 600 of 1000 bytes"),
    ],
)
def test_a_download_that_was_not_seen_does_not(found: Seen, why: str) -> None:
    before = TargetState(3, 0, 40.0)
    after = took(before, 50.0, DONE, found, "eth0")
    assert (after.probes, after.failures, after.last_ok_s) == (3, 1, 40.0)
    assert why in str(after.error)


def test_a_failure_keeps_what_was_known() -> None:
    before = TargetState(3, 0, 40.0, None, "TLSv1.2", "x", 5, 10)
    assert took(before, 50.0, "refused", seen((1, 7)), "eth0") == TargetState(
        3, 1, 40.0, "refused", "TLSv1.2", "x", 6, 17
    )


OK, BAD = TargetState(1, 0, 100.0), TargetState(0, 1, None, "refused")


@pytest.mark.parametrize(
    ("problems", "targets", "now", "why"),
    [
        ([None, None], {"a": OK}, 160.0, None),
        ([None, None], {"a": OK, "b": BAD}, 160.0, None),
        ([None, None], {"a": OK}, 161.1, "the last download that was watched is too old"),
        ([None, None], {"a": BAD}, 100.0, "no target is watched: a: refused"),
        ([None, None], {"a": BAD, "b": BAD}, 100.0, "no target is watched: a: refused (and 1 more)"),
        ([None, None], {"a": TargetState()}, 100.0, "no target has been downloaded from yet"),
        ([None, "interface eth0 is down"], {"a": OK}, 100.0, "interface eth0 is down"),
        (["damaged", "down"], {"a": OK}, 100.0, "damaged"),
    ],
)
def test_armed(problems: list[str | None], targets: dict[str, TargetState], now: float, why: str | None) -> None:
    assert why_not_armed(problems, targets, now, 61.0) == why


def test_times_follow_the_wall_clock_of_now() -> None:
    assert OK.as_dict(5000.0, 130.0)["last_ok"] == 4970.0
    assert BAD.as_dict(5000.0, 130.0)["last_ok"] is None


def test_window() -> None:
    assert window_s(2.0, 5.0) == 65.0
    assert window_s(60.0, 5.0) == 185.0


@given(st.integers(1, 40), st.floats(1, 100), st.lists(st.floats(0, 1), min_size=1, max_size=200))
def test_every_target_has_its_turn_once_an_interval(count: int, interval: float, chances: list[float]) -> None:
    names = [f"n{index}" for index in range(count)]
    schedule, now = Schedule(names, interval, 0.0), 0.0
    last: dict[str, float] = {}
    for chance in chances:
        wait = schedule.wait_s(now)
        assert wait is not None
        now += wait
        name = schedule.take(now)
        assert name is not None
        if name in last:
            assert (1 - JITTER) * interval - 1e-6 <= now - last[name] <= (1 + JITTER) * interval + 1e-6
        last[name] = now
        schedule.done(name, now, chance)
    assert len(last) == min(count, len(last))


def test_a_target_under_way_is_not_named_again() -> None:
    schedule = Schedule(["a"], 10.0, 0.0)
    assert schedule.take(0.0) == "a"
    assert schedule.take(100.0) is None
    assert schedule.wait_s(100.0) is None
    schedule.done("a", 100.0, 0.5)
    assert schedule.wait_s(100.0) == 10.0


def test_the_page_for_people() -> None:
    base = {"interface": "eth0", "since": 0.0, "now": 110.0, "leaks": [], "armed": True, "why": None}
    text = cli.render({**base, "targets": {"a": OK.as_dict(110.0, 110.0), "b": BAD.as_dict(110.0, 110.0)}})
    assert text.splitlines() == [
        "armed since 1970-01-01T00:00:00Z; interface eth0",
        "a: watched 1 times, last 10 s ago; 0 packets",
        "b: watched 0 times, last never; 0 packets",
        "  refused",
        "no plaintext was seen",
    ]
    leak = {"at": 0.0, "src": "192.0.2.1:443", "dst": "192.0.2.2:5", "block": 7}
    text = cli.render({**base, "armed": False, "why": "down", "targets": {}, "leaks": [leak]})
    assert text.startswith("NOT ARMED: down; interface eth0\nPLAINTEXT: 192.0.2.1:443 to 192.0.2.2:5, block 7")
