# SPDX-License-Identifier: Apache-2.0
"""Orders with everything that guards them: real helpers, a real timer, a real kernel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ..fleet.fleet import Deployed, new_connection_is_ktls
from .on_host import HOST, shell

DROP_IN = "/run/systemd/system/ktls-agent.service.d"
SHORT_S = 25  # an emulated helper may take ten seconds, and an order waits for one of them


@pytest.fixture(autouse=True)
def helper_is_warm(deployed: Deployed) -> None:
    """The first answer of the kernel's reader takes longer than a self-test waits on an emulated CPU.

    What another test has switched off is clear again.
    """
    shell(deployed, "ktls-agent clear --json; ktls-agent revert --reason between-tests --json")
    deployed.wait("the probe", lambda: deployed.agent(HOST, "probe")["probe"]["ktls_tx"] is not None, 60)


def ordered(deployed: Deployed, phase: str, lease_s: float, identity: str) -> tuple[dict[str, Any], int]:
    epoch = deployed.agent(HOST, "status")["epoch"] + 1
    status = deployed.order(HOST, phase, epoch, lease_s=lease_s, identity=identity)
    assert status.get("order") == "pending", (status.get("error"), deployed.agent(HOST, "status"))
    return status, epoch


def undone(deployed: Deployed) -> dict[str, Any]:
    """Wait for the steps of a revert: on an emulated CPU a helper takes longer than a revert waits for it."""

    def done() -> bool:
        steps = deployed.agent(HOST, "status")["revert"]
        return bool(steps) and all(one["result"] != "failed" for one in steps)

    deployed.wait("every step of the revert", done, 120)
    return deployed.agent(HOST, "status")


def armed(deployed: Deployed) -> bool:
    return shell(deployed, "systemctl is-active ktls-lease.timer || true").strip() == "active"


def wait_for_mark(deployed: Deployed) -> float:
    """Return how long after its deadline the order was taken back, by the clock of the host."""
    deadline = float(shell(deployed, "sed -n s/deadline_s=//p /var/lib/ktls/lease"))
    deployed.wait("the mark", lambda: "lapsed" in shell(deployed, "ls /run/ktls"), 60)
    # Both on the wall clock of the host: when the mark was made, and what time the deadline was.
    made, now, uptime = shell(deployed, "stat -c %.Y /run/ktls/lapsed; date +%s.%N; cut -d' ' -f1 /proc/uptime").split()
    return float(made) - (float(now) - float(uptime) + deadline)


@contextmanager
def dead_agent(deployed: Deployed) -> Iterator[None]:
    """The agent is killed, and nobody starts it again while the block runs."""
    shell(
        deployed,
        f"mkdir -p {DROP_IN}; printf '[Service]\\nRestart=no\\n' >{DROP_IN}/dead.conf; systemctl daemon-reload; "
        "systemctl kill --signal=SIGKILL ktls-agent",
    )
    try:
        yield
    finally:
        shell(deployed, f"rm -r {DROP_IN}; systemctl daemon-reload; systemctl start ktls-agent")


def test_an_order_is_guarded_before_it_is_in_force_and_until_it_is_confirmed(deployed: Deployed) -> None:
    status, epoch = ordered(deployed, "tx", 120, "guarded")
    assert (status["phase"], status["probe"]["ktls_tx"], status["lapsed"]) == ("tx", True, False)
    lease = shell(deployed, "cat /var/lib/ktls/lease").splitlines()
    assert [line.partition("=")[0] for line in lease] == ["id", "epoch", "boot_id", "deadline_s"]
    assert armed(deployed)
    longer = deployed.agent(HOST, "extend", "--id", "guarded", "--epoch", str(epoch), "--lease", "900")
    assert longer["lease_left_s"] > 600
    assert deployed.agent(HOST, "confirm", "--id", "guarded", "--epoch", str(epoch))["order"] == "committed"
    deployed.wait("the timer is stopped", lambda: not armed(deployed), 60)
    assert shell(deployed, "ls /var/lib/ktls").split().count("lease") == 0
    started = time.monotonic()
    status = deployed.agent(HOST, "revert", "--unload")
    assert {one["step"]: one["result"] for one in status["revert"]}.get("tx", "done") == "done"
    status = undone(deployed)
    results = {one["step"]: one["result"] for one in status["revert"]}
    print(f"\nrevert: {results}, all of it after {time.monotonic() - started:.1f} s")
    assert (results["tx"], results["policy"]) == ("done", "kept")
    assert results["nic"] in ("done", "nothing"), status["revert"]
    assert results["module"] in ("done", "kept"), status["revert"]
    assert status["problems"] == []


def test_the_module_is_loaded_for_an_order(deployed: Deployed) -> None:
    shell(deployed, "modprobe -r tls; ! test -d /sys/module/tls")
    _, epoch = ordered(deployed, "tx", 120, "module")
    assert shell(deployed, "test -d /sys/module/tls && echo there").strip() == "there"
    status = deployed.agent(HOST, "cancel", "--id", "module", "--epoch", str(epoch))
    assert (status["order"], status["revert_reason"], status["phase"]) == ("reverted", "cancelled", "userspace")


def test_receive_is_ordered_and_read_back(deployed: Deployed) -> None:
    status, epoch = ordered(deployed, "rx", 120, "receive")
    assert (status["phase"], status["probe"]["ktls_tx"], status["probe"]["ktls_rx"]) == ("rx", True, True)
    status = deployed.agent(HOST, "cancel", "--id", "receive", "--epoch", str(epoch))
    assert {one["step"]: one["result"] for one in undone(deployed)["revert"]}["rx"] == "done"
    assert not new_connection_is_ktls(deployed, HOST)


def test_the_timer_ends_the_lease_of_a_dead_agent(deployed: Deployed) -> None:
    ordered(deployed, "tx", SHORT_S, "dead")
    with dead_agent(deployed):
        late = wait_for_mark(deployed)
        print(f"\ndead agent: taken back {late:.2f} s after the deadline")
        assert -0.1 < late < 10
        assert not new_connection_is_ktls(deployed, HOST)
    status = deployed.agent(HOST, "status")
    assert (status["order"], status["revert_reason"]) == ("reverted", "lease_expired")
    deployed.wait("the timer is stopped", lambda: not armed(deployed), 60)
    _, epoch = ordered(deployed, "tx", 120, "again")
    assert not deployed.agent(HOST, "status")["lapsed"], "a new order ends the mark"
    assert new_connection_is_ktls(deployed, HOST)
    deployed.agent(HOST, "cancel", "--id", "again", "--epoch", str(epoch))


def test_the_timer_ends_the_lease_of_a_frozen_agent(deployed: Deployed) -> None:
    ordered(deployed, "tx", SHORT_S, "frozen")
    shell(deployed, "systemctl service-watchdogs no; systemctl kill --signal=SIGSTOP ktls-agent")
    try:
        late = wait_for_mark(deployed)
        print(f"\nfrozen agent: taken back {late:.2f} s after the deadline")
        assert -0.1 < late < 10
    finally:
        shell(deployed, "systemctl kill --signal=SIGCONT ktls-agent; systemctl service-watchdogs yes")
    deployed.wait("the agent knows", lambda: deployed.agent(HOST, "status")["order"] == "reverted", 60)
    assert deployed.agent(HOST, "status")["revert_reason"] == "lease_expired"


@pytest.mark.parametrize("verb", ["order", "extend"])
def test_without_a_timer_nothing_is_applied(deployed: Deployed, verb: str) -> None:
    epoch = 0
    if verb == "extend":
        _, epoch = ordered(deployed, "tx", 120, "untimed")
    shell(deployed, "systemctl stop ktls-lease-helper.socket")
    started = time.monotonic()
    try:
        if verb == "order":
            epoch = deployed.agent(HOST, "status")["epoch"] + 1
            refused = deployed.order(HOST, "tx", epoch, identity="untimed")
        else:
            refused = deployed.agent(HOST, "extend", "--id", "untimed", "--epoch", str(epoch), "--lease", "900")
        assert refused["error"]["code"] == "timer_failed", refused
        left = deployed.agent(HOST, "status")["lease_left_s"]
        assert left is None if verb == "order" else 0 < left <= 120
    finally:
        shell(deployed, "systemctl start ktls-lease-helper.socket")
    assert time.monotonic() - started < 60
    status = deployed.agent(HOST, "revert", "--reason", "end of test")
    assert status["phase"] == "userspace"
