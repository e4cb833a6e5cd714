# SPDX-License-Identifier: Apache-2.0
"""The units of datapath ``service``: who may ask root's helper, and where that may write."""

from __future__ import annotations

from ktls_host.datapath import service
from tests.unit.agent.test_units import values


def test_the_helper_of_a_service_writes_there_and_nowhere_else() -> None:
    socket = values("ktls-service-helper.socket", "Socket")
    assert (socket["SocketUser"], socket["SocketGroup"], socket["SocketMode"]) == (["root"], ["ktls-agent"], ["0660"])
    assert socket["ListenStream"] == [service.SOCKET]
    unit = values("ktls-service-helper@.service", "Service")
    assert unit["ExecStart"] == ["/usr/local/bin/ktls-agent helper service"]
    assert set(unit["ReadWritePaths"][0].split()) == {
        "-/etc/ktls-fleet",
        "-/etc/systemd/system",
        "-/var/lib/ktls-levers",
        "-/run/ktls-levers",
        "-/run/ktls-levers.lock",
    }
    assert unit["ProtectSystem"] == ["strict"]
    assert float(unit["RuntimeMaxSec"][0]) > service.SWITCH_TIMEOUT_S


def test_a_drop_in_can_be_taken_away_by_all_that_undo() -> None:
    for name in ("ktls-boot.service", "ktls-lease.service", "ktls-datapath.service"):
        assert "-/etc/systemd/system" in values(name, "Service")["ReadWritePaths"][0].split(), name
    assert "AF_UNIX" in values("ktls-boot.service", "Service")["RestrictAddressFamilies"][0], "daemon-reload"
