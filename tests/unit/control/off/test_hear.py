# SPDX-License-Identifier: Apache-2.0
"""What a host said becomes what off did there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ktls_control.off.hear import Hearing
from ktls_control.off.model import OffResult


def status(left: int = 0, **changes: Any) -> str:
    base = {
        "ok": True,
        "phase": "userspace",
        "connections": {"ktls_tx": left, "userspace": 2},
        "off": {"flag": True, "age_s": 1.0, "reason": "x"},
        "sidecar": {"last_ktls_tx_established_age_s": 4.0, "ktls_tx_zero_age_s": 1.0},
        "sidecar_error": None,
    }
    return json.dumps({**base, **changes})


def heard(*lines: str, at: float = 3.0) -> OffResult:
    """Lines that arrive at once, ``at`` seconds after the start; the host's own clock is in them."""
    hearing = Hearing("web1")
    for line in lines:
        hearing.feed(line, at)
    return hearing.result()


UP = ("@off 100.0 0 OFF is set", "@flag 100.0 run durable")


def test_ages_of_the_host_become_seconds_since_off() -> None:
    result = heard(*UP, f"@agent 104.0 0 {status()}")
    assert result.ok
    assert (result.flag_s, result.last_new_s, result.none_left_s, result.by) == (3.0, 3.0, 6.0, "agent")


def test_a_last_connection_before_off_counts_as_none_after_it() -> None:
    sidecar = {"last_ktls_tx_established_age_s": 60.0, "ktls_tx_zero_age_s": 30.0}
    result = heard(*UP, f"@agent 104.0 0 {status(sidecar=sidecar)}")
    assert (result.last_new_s, result.drained_90_s, result.none_left_s) == (0.0, 0.0, 0.0)


def test_connections_that_drain_leave_no_time_of_none() -> None:
    result = heard(*UP, f"@agent 101.0 0 {status(2)}")
    assert (result.ok, result.left, result.none_left_s, result.drained_90_s) == (True, 2, None, None)


def test_nine_of_ten_are_dated_by_the_look_that_saw_it() -> None:
    looks = [f"@agent {100 + second}.0 0 {status(left)}" for second, left in enumerate((20, 19, 3, 2, 1))]
    result = heard(*UP, *looks)
    assert result.drained_90_s == 3.0 + 3.0
    assert result.curve[0] == (3.0, 20)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"phase": "tx"}, "flag raised, but phase tx is in force"),
        ({"off": {"flag": False}}, "flag raised, but the agent sees no flag"),
    ],
)
def test_off_is_only_what_the_host_confirmed(change: dict[str, Any], says: str) -> None:
    result = heard(*UP, f"@agent 101.0 0 {status(**change)}")
    assert not result.ok
    assert (result.code, result.error) == ("not_confirmed", f"web1: {says}")


def test_a_flag_that_could_not_be_made_is_no_flag() -> None:
    result = heard("@off 100.0 1 ktls-off: FAILED: cannot make /run/ktls/off", "@flag 100.0", "@kernel 100.0 0 0")
    assert (result.reachable, result.flag, result.off, result.code) == (True, False, False, "flag_failed")
    assert "cannot make /run/ktls/off" in str(result.error)


def test_a_failed_step_after_the_flag_is_no_failure_of_off() -> None:
    result = heard("@off 100.0 1 odd", "@flag 100.0 run", f"@agent 101.0 0 {status()}")
    assert result.ok


@pytest.mark.parametrize(
    "answer",
    [
        "127 sh: /usr/local/bin/ktls-agent: not found",
        "1 " + json.dumps({"ok": False, "error": {"code": "unreachable", "message": "nobody answers"}}),
        f"0 {status(sidecar=None, sidecar_error='connection refused')}",
        "0 Segmentation fault",
    ],
)
def test_without_the_agent_the_kernel_counts(answer: str) -> None:
    gone = heard(*UP, "@kernel 100.0 0 9", f"@agent 101.0 {answer}", "@end 101.0")
    assert (gone.ok, gone.by, gone.left, gone.none_left_s) == (True, "kernel", 0, 3.0)
    assert gone.note
    there = heard(*UP, "@kernel 100.0 4 9", f"@agent 101.0 {answer}", "@end 101.0")
    assert (there.ok, there.flag, there.left, there.code) == (False, True, 4, "not_confirmed")
    assert "the kernel counts 4 kTLS connections" in str(there.error)


def test_the_kernel_dates_the_last_new_connection_by_its_counter() -> None:
    result = heard(
        *UP,
        "@kernel 100.0 2 9",
        "@agent 100.5 127 gone",
        "@kernel 101.0 3 10",
        "@kernel 102.0 1 10",
        "@kernel 104.0 0 10",
    )
    assert (result.last_new_s, result.none_left_s) == (4.0, 7.0)
    assert heard(*UP, "@kernel 100.0 0 0", "@agent 100.5 127 gone").last_new_s == 0.0, "there never was one"


def test_what_cannot_be_read_is_said() -> None:
    result = heard(*UP, "@kernel 100.0 - -", "@agent 100.5 127 gone")
    assert not result.ok
    assert "nothing could be read back" in str(result.error)
    assert "/proc/net/tls_stat cannot be read" in str(result.error)


@pytest.mark.parametrize(
    "change",
    [
        {"connections": [1]},
        {"connections": {"ktls_tx": "many"}},
        {"sidecar": "yes"},
        {"sidecar": {"ktls_tx_zero_age_s": "long"}},
        {"off": "on"},
        {"ok": False, "error": "text"},
        {"ok": 0, "error": ["x"]},
    ],
)
def test_nonsense_raises_at_once_or_is_no_answer(change: dict[str, Any]) -> None:
    """The fan-out catches it at the line, and everything after it works on what was understood."""
    hearing = Hearing("web1")
    for line in (*UP, "@kernel 100.0 0 0"):
        hearing.feed(line, 3.0)
    try:
        hearing.feed(f"@agent 101.0 0 {status(**change)}", 3.0)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        hearing.confused = str(error)
    result = hearing.result()
    assert (result.off, result.by) == (True, "kernel"), "the kernel's word is there still"
    assert result.note


def test_a_banner_is_no_answer() -> None:
    result = heard("Welcome to web1", "@home in the kernel", "@off later")
    assert not result.reachable


def test_it_is_settled_when_the_agent_counts_none() -> None:
    hearing = Hearing("web1")
    for line, settled in ((UP[0], False), (UP[1], False), (f"@agent 101.0 0 {status(1)}", False),
                          (f"@agent 102.0 0 {status()}", True)):  # fmt: skip
        hearing.feed(line, 3.0)
        assert hearing.settled is settled


# Other datapaths

NGINX = {"kind": "nginx", "unit": "nginx.service", "switch": "reload", "modes": ["userspace", "tx+rx", "rx"]}
SERVICE = {"kind": "service", "unit": "lighttpd.service", "switch": "restart", "modes": ["userspace", "tx+rx"]}


def other(
    about: dict[str, Any], left: int | None = 0, opened: int = 40, current: int = 0, old: int | None = 0, **changes: Any
) -> str:
    """What an agent says whose datapath is not the sidecar, and knows no more than it has to."""
    served = {"effective_mode": "userspace", "pid": 1}
    if left is not None:
        served["connections"] = {"ktls_tx": left, "userspace": 0}
    draining = None if old is None else {"processes": old, "connections": left}
    base = {"sidecar": served, "datapath": {"consent": {"restart": False}, **about, "draining": draining}}
    stat = {"TlsTxSw": opened, "TlsTxDevice": 0, "TlsCurrTxSw": current, "TlsCurrTxDevice": 0}
    return status(**{**base, "tls_stat": stat, "connections": {"ktls_tx": 0, "userspace": 0}, **changes})


def test_old_workers_are_counted_while_they_drain() -> None:
    looks = [(20, 3, 40), (6, 3, 41), (1, 2, 41), (0, 0, 41)]
    lines = [
        f"@agent {100 + at}.0 0 {other(NGINX, left, opened, left, old)}" for at, (left, old, opened) in enumerate(looks)
    ]
    during = heard(*UP, *lines[:3])
    assert (during.off, during.left, during.old_processes, during.none_left_s) == (True, 1, 2, None)
    assert during.drained_90_s == 5.0
    done = heard(*UP, *lines)
    # The last connection that the kernel opened was there at the second look.
    assert (done.last_new_s, done.none_left_s, done.left, done.old_processes) == (4.0, 6.0, 0, 0)


def test_what_a_datapath_does_not_know_is_not_made_up() -> None:
    result = heard(*UP, f"@agent 101.0 0 {other(SERVICE, None, old=None, tls_stat={}, tls_stat_available=False)}")
    assert result.off
    assert (result.left, result.last_new_s, result.none_left_s, result.drained_90_s) == (None, None, None, None)


def test_what_the_kernel_counts_has_to_do_where_the_datapath_counts_nothing() -> None:
    result = heard(*UP, f"@agent 101.0 0 {other(SERVICE, None, current=4)}", f"@agent 103.0 0 {other(SERVICE, None)}")
    assert (result.off, result.left, result.none_left_s) == (True, 0, 6.0)


def test_others_in_the_kernel_do_not_hold_a_datapath_up() -> None:
    assert heard(*UP, f"@agent 101.0 0 {other(NGINX, 0, current=9)}").left == 0


def test_a_service_that_nobody_may_restart_is_not_off() -> None:
    hearing = Hearing("web1")
    for line in (*UP, f"@agent 101.0 0 {other(SERVICE, 5, current=5, old=2, phase='tx+rx')}"):
        hearing.feed(line, 3.0)
    result = hearing.result()
    assert (result.off, result.flag, result.code) == (False, True, "restart_needed")
    assert "configuration off, 2 processes keep kTLS until restart: systemctl restart lighttpd.service" in str(
        result.error
    )
    assert hearing.settled, "waiting changes nothing"
    consented = {**SERVICE, "consent": {"restart": True}}
    assert heard(*UP, f"@agent 101.0 0 {other(consented, 5, old=2, phase='tx+rx')}").code == "not_confirmed"


def test_a_reload_that_failed_says_so() -> None:
    owed = {**NGINX, "problem": "kernel TLS was taken away, and nginx has not been reloaded yet"}
    result = heard(*UP, f"@agent 101.0 0 {other(owed, 1, phase='tx+rx')}")
    assert not result.off and "nginx has not been reloaded yet" in str(result.error)
