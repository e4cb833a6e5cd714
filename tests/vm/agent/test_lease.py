# SPDX-License-Identifier: Apache-2.0
"""Lease and ``ktls-off`` with the agent dead, on a real kernel and a real systemd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..fleet.fleet import Deployed
from .on_host import guest, shell


@pytest.fixture(scope="module")
def agentless(deployed: Deployed) -> Iterator[Deployed]:
    """A host whose agent was killed, and that nobody starts again."""
    drop_in = "/run/systemd/system/ktls-agent.service.d"
    shell(
        deployed,
        f"mkdir -p {drop_in}; printf '[Service]\\nRestart=no\\n' >{drop_in}/dead.conf; systemctl daemon-reload; "
        "systemctl kill --signal=SIGKILL ktls-agent; sleep 1; ! systemctl -q is-active ktls-agent",
    )
    yield deployed
    shell(deployed, f"rm -r {drop_in} /run/ktls/lapsed; systemctl daemon-reload; systemctl start ktls-agent")


def test_lease_ends_without_the_agent_whatever_the_clock_says(agentless: Deployed) -> None:
    found = guest(agentless, "lapse")
    print(
        f"\nlapse: armed in {found['arm_s']:.2f} s; after the deadline: flag {found['late_s']:.2f} s, "
        f"all steps {found['done_s']:.2f} s"
    )
    assert found["armed"]["ok"], found
    assert not found["early"], "one hour forward changes nothing"
    assert 0 <= found["late_s"] < 10, "a tick is a second; an emulated CPU among others takes its time"
    assert not found["new_is_ktls"]
    record = found["record"]
    assert record["order"].startswith("lapsed id=by-hand epoch=7 ")
    assert record["nic"] == f"ok off: {found['card']}", "ethtool works in the sandbox"
    assert record["lease"] == "reverted /var/lib/ktls/lease.reverted"
    assert "its lease is over; reverted" in found["said"]


def test_a_full_disk_and_a_read_only_var_do_not_hold_it_up(agentless: Deployed) -> None:
    found = guest(agentless, "hard")
    print(f"\nfull and read-only: all steps {found['done_s']:.2f} s after arming was asked for")
    assert found["armed"]["ok"], found
    assert not found["new_is_ktls"]
    assert found["lease"], "it cannot be renamed, and the agent accounts for it"
    assert found["record"]["lease"].startswith("left "), found
    assert found["once"], "what is done is not done again each second"
    assert found["state"] == "success"


def test_off_alone_says_what_drains_and_unloads_only_what_nobody_uses(agentless: Deployed) -> None:
    found = guest(agentless, "off")
    print(f"\nktls-off: {found['took_s']:.2f} s with all its steps")
    assert found["first"]["tx"].startswith("draining flag; TlsCurrTxSw=1 "), found
    assert found["first"]["module"].startswith("kept in use by "), found
    assert not found["new_is_ktls"]
    assert found["second"]["module"] == "ok unloaded", found
