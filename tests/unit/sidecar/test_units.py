# SPDX-License-Identifier: Apache-2.0
"""The sidecar's units: exposure, and what the processes lean on."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from ktls_sidecar import config
from tests.unit.agent.test_units import UNITS, values

SERVICE, SOCKET = "ktls-sidecar.service", "ktls-sidecar.socket"


def test_exposure() -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", str(UNITS / SERVICE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Overall exposure level" in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout.splitlines()[-1]
    assert "Unknown" not in done.stderr, done.stderr


def test_the_service_suits_a_supervisor_with_workers() -> None:
    service = values(SERVICE, "Service")
    assert service["KillMode"] == ["mixed"], "workers are told by the supervisor, and drain"
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == [""]
    assert service["User"] == ["ktls-sidecar"]
    assert service["LimitCORE"] == ["0"]
    assert service["LoadCredential"] == ["tls.key:/etc/ktls/tls/key.pem"]
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    # A drain and the two seconds after which the supervisor kills.
    assert float(service["TimeoutStopSec"][0]) > config.Config().drain_s + 2
    for path in (config.Config().control_socket, config.Config().http_socket):
        assert Path(str(path)).parent.name == service["RuntimeDirectory"][0]


def test_the_socket_is_what_the_configuration_says_by_default() -> None:
    socket = values(SOCKET, "Socket")
    listens = {
        f"[{item.host}]:{item.port}" if ":" in item.host else f"{item.host}:{item.port}"
        for item in config.Config().listen
    }
    assert set(socket["ListenStream"]) == listens
    assert socket["Accept"] == ["no"]
    assert socket["BindIPv6Only"] == ["ipv6-only"], "the other address has IPv4"
    assert SOCKET in values(SERVICE, "Unit")["After"][0]


@pytest.mark.parametrize("name", [SERVICE, SOCKET])
def test_systemd_understands_every_line(name: str, tmp_path: Path) -> None:
    # The binary does not exist here; its path is put where one does.
    for unit in (SERVICE, SOCKET):
        (tmp_path / unit).write_text((UNITS / unit).read_text().replace("/usr/local/bin/ktls-sidecar", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    ours = [line for line in done.stderr.splitlines() if "ktls-sidecar" in line]
    assert ours == []
