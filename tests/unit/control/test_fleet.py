# SPDX-License-Identifier: Apache-2.0
"""What off and status say of a host, from what the host answered."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ktls_control.fanout import Answer
from ktls_control.fleet import host_status, off_result
from ktls_control.inventory import Host, host_from_vars

HOST = Host("web1", "192.0.2.1", None, "root", None, None, False)


def answer(**changes: Any) -> Answer:
    fields = {"reached": True, "exit_status": 0, "stdout": "", "stderr": "", "error": None, "at": 1000.0}
    return Answer(HOST, **{**fields, **changes})


def status(**changes: Any) -> dict[str, Any]:
    base = {
        "ok": True,
        "phase": "userspace",
        "order": "reverted",
        "epoch": 4,
        "tls_stat": {},
        "connections": {"ktls_tx": 0, "userspace": 2},
        "bytes": {"ktls_tx": 10, "userspace": 20},
        "off": {"flag": True, "age_s": 1.0, "reason": "x"},
        "sidecar": {"last_ktls_tx_established_age_s": 4.0, "ktls_tx_zero_age_s": 1.0},
        "sidecar_error": None,
    }
    return {**base, **changes}


def test_ages_of_the_host_become_seconds_since_off() -> None:
    result = off_result("web1", status(), at=1005.0, started=1000.0)
    assert (result.last_new_s, result.none_left_s) == (1.0, 4.0)
    assert result.ok


def test_a_last_connection_before_off_counts_as_none_after_it() -> None:
    sidecar = {"last_ktls_tx_established_age_s": 60.0, "ktls_tx_zero_age_s": 30.0}
    result = off_result("web1", status(sidecar=sidecar), at=1005.0, started=1000.0)
    assert (result.last_new_s, result.none_left_s) == (0.0, 0.0)


def test_connections_that_drain_leave_no_time_of_none() -> None:
    result = off_result("web1", status(connections={"ktls_tx": 2, "userspace": 0}), at=1005.0, started=1000.0)
    assert (result.left, result.none_left_s) == (2, None)


@pytest.mark.parametrize(
    "change", [{"phase": "tx"}, {"off": {"flag": False, "age_s": None, "reason": None}}, {"ok": False}]
)
def test_off_is_only_what_the_host_confirmed(change: dict[str, Any]) -> None:
    assert not off_result("web1", status(**change), at=1005.0, started=1000.0).ok


def test_status_of_an_unreachable_host() -> None:
    entry = host_status(answer(reached=False, exit_status=None, error="web1 unreachable: no answer within 20 s"))
    assert entry == {"reachable": False, "error": "web1 unreachable: no answer within 20 s"}


def test_status_of_a_host_without_an_agent_names_the_reason() -> None:
    entry = host_status(answer(exit_status=127, stderr="sh: 1: /usr/local/bin/ktls-agent: not found\n"))
    assert entry["reachable"] is True
    assert "not found" in entry["error"]
    assert "phase" not in entry


def test_status_keeps_the_promised_keys() -> None:
    entry = host_status(answer(stdout=json.dumps(status()) + "\n"))
    assert {"reachable", "phase", "order", "epoch", "tls_stat", "connections", "bytes"} <= entry.keys()


def test_connection_variables_of_an_inventory() -> None:
    host = host_from_vars(
        "web1",
        {
            "ansible_host": "127.0.0.1",
            "ansible_port": "2201",
            "ansible_user": "admin",
            "ansible_ssh_common_args": "-F '/tmp/a b/ssh_config' -o X=y",
        },
    )
    assert (host.address, host.port, host.sudo) == ("127.0.0.1", 2201, True)
    assert str(host.ssh_config) == "/tmp/a b/ssh_config"
