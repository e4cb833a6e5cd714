# SPDX-License-Identifier: Apache-2.0
"""The sentinel's unit; its exposure is with that of the others."""

from __future__ import annotations

import subprocess
from pathlib import Path

from ktls_sentinel import config, service
from tests.unit.agent.test_units import UNITS, values

UNIT = "ktls-sentinel.service"


def test_one_capability_and_no_identity_that_stays() -> None:
    found = values(UNIT, "Service")
    assert found["CapabilityBoundingSet"] == found["AmbientCapabilities"] == ["CAP_NET_RAW"]
    assert found["DynamicUser"] == ["yes"]
    assert "User" not in found
    assert "PrivateUsers" not in found, "the capability counts in the user namespace of the network"
    assert found["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6 AF_PACKET"]
    assert found["SocketBindDeny"] == ["any"]
    assert found["LimitCORE"] == ["0"], "a core would hold payload"
    assert found["Restart"] == ["always"]
    assert values(UNIT, "Unit")["StartLimitIntervalSec"] == ["0"]
    assert float(found["WatchdogSec"][0]) > service.STUCK_S


def test_places_are_those_of_the_configuration() -> None:
    found = values(UNIT, "Service")
    assert f"/run/{found['RuntimeDirectory'][0]}/sentinel.sock" == config.SOCKET
    assert f"/var/lib/{found['StateDirectory'][0]}" == config.STATE_DIR
    assert found["ExecStart"] == [f"/usr/local/bin/ktls-sentinel serve --config {config.DEFAULT_PATH}"]


def test_systemd_understands_every_line(tmp_path: Path) -> None:
    # The program does not exist here; its path is put where one does.
    (tmp_path / UNIT).write_text((UNITS / UNIT).read_text().replace("/usr/local/bin/ktls-sentinel", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / UNIT)], capture_output=True, text=True, check=False
    )
    assert [line for line in done.stderr.splitlines() if "ktls" in line] == []
