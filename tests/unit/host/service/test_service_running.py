# SPDX-License-Identifier: Apache-2.0
"""By which configuration processes run: from their environment, or where that is gone from times."""

from __future__ import annotations

from itertools import product

import pytest

from ktls_host.service import running
from ktls_host.service.running import Process, by_ours, parse_environment, sort

VARIABLE, OURS = "OPENSSL_CONF", "/etc/ktls-fleet/policy/x.service.openssl.cnf"
OLD, CHANGE, NEW = 10.0, 20.0, 30.0


def process(started: float, environment: str | None, pid: int = 1) -> Process:
    parsed = None if environment is None else parse_environment(environment)
    return Process(pid, started, "/bin/x", ("openssl",), parsed)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [
        ("INVOCATION_ID=a\0OPENSSL_CONF=/x=y\0", (("INVOCATION_ID", "a"), ("OPENSSL_CONF", "/x=y"))),
        ("nginx: worker process\0\0\0", None),
        ("ION_ID=a\0", None),
        ("", None),
    ],
)
def test_environment(text: str, parsed: object) -> None:
    assert parse_environment(text) == parsed


@pytest.mark.parametrize(
    ("started", "there", "changed"), list(product((OLD, NEW), (True, False), (CHANGE, float("inf"))))
)
def test_the_environment_counts_more_than_times(started: float, there: bool, changed: float) -> None:
    with_ours = process(started, f"INVOCATION_ID=1\0{VARIABLE}={OURS}\0")
    another = process(started, f"INVOCATION_ID=1\0{VARIABLE}=/etc/own.cnf\0")
    nothing = process(started, "INVOCATION_ID=1\0")
    found = [by_ours(each, VARIABLE, OURS, there, changed) for each in (with_ours, another, nothing)]
    assert found == [True, False, False]


@pytest.mark.parametrize(
    ("started", "there", "changed", "ours"),
    [
        (NEW, True, CHANGE, True),
        (OLD, True, CHANGE, False),
        (NEW, False, CHANGE, False),
        (OLD, False, CHANGE, True),
        (OLD, False, float("-inf"), False),
        (OLD, True, float("-inf"), True),
        (NEW, False, float("inf"), None),
        (NEW, True, float("inf"), None),
    ],
)
def test_without_environment_times_count(started: float, there: bool, changed: float, ours: bool | None) -> None:
    assert by_ours(process(started, None), VARIABLE, OURS, there, changed) is ours


def test_what_takes_connections_is_the_main_process() -> None:
    """A child from before may stay (KillMode=process); that does not make kTLS of what is new."""
    new = process(NEW, f"INVOCATION_ID=1\0{VARIABLE}={OURS}\0", 2)
    old = process(OLD, "INVOCATION_ID=1\0", 1)
    runs = sort([old, new], VARIABLE, OURS, True, CHANGE)
    assert (runs.all_ours(2), runs.all_ours(1), runs.all_ours(0)) == (True, False, False)
    assert (runs.stale(True), runs.stale(False)) == ((old,), (new,))
    assert running.main_program([old, new], 2) == new
    assert running.main_program([old, new], 0) == old
    assert running.main_program([], 5) is None
    assert not sort([], VARIABLE, OURS, True, CHANGE).running
