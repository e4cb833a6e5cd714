# SPDX-License-Identifier: Apache-2.0
"""What status says of a host, from what the host answered."""

from __future__ import annotations

from typing import Any

from ktls_control.fleet import host_status
from ktls_control.inventory import host_from_vars
from ktls_control.reach import Reply


def answer(**changes: Any) -> Reply:
    fields = {"data": None, "error": None, "code": None, "reached": True, "at": 1000.0}
    return Reply("web1", **{**fields, **changes})


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


def test_status_of_an_unreachable_host() -> None:
    entry = host_status(answer(reached=False, error="web1 unreachable: no answer within 20 s"))
    assert entry == {"reachable": False, "error": "web1 unreachable: no answer within 20 s"}


def test_status_of_a_host_without_an_agent_names_the_reason() -> None:
    entry = host_status(answer(error="web1: sh: 1: /usr/local/bin/ktls-agent: not found"))
    assert entry["reachable"] is True
    assert "not found" in entry["error"]
    assert "phase" not in entry


def test_status_keeps_the_promised_keys() -> None:
    entry = host_status(answer(data=status()))
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
