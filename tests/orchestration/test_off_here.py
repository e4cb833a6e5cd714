# SPDX-License-Identifier: Apache-2.0
"""Off and status of hosts whose agents answer on sockets of this machine."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Fleet


def here(fleet: Fleet, tmp_path: Path) -> str:
    """An inventory that says so."""
    inventory = json.loads(fleet.inventory.read_text())
    inventory["ktls_hosts"]["vars"] = {"ktls_reach": "socket"}
    path = tmp_path / "here.yml"
    path.write_text(json.dumps(inventory))
    return str(path)


def test_off_and_status(fleet: Fleet, tmp_path: Path) -> None:
    inventory = here(fleet, tmp_path)
    done = fleet.ktls("off", "-i", inventory, "--json", "--drain", "1", "--reason", "why")
    said = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name: (host["off"], host["by"]) for name, host in said["hosts"].items()} == dict.fromkeys(
        fleet.names, (True, "agent")
    )
    assert [fleet.requests(name, "off")[0]["reason"] for name in fleet.names] == ["why"] * len(fleet.names)
    status = json.loads(fleet.ktls("status", "-i", inventory, "--json").stdout)
    assert {host["off"]["flag"] for host in status["hosts"].values()} == {True}


def test_an_agent_that_is_gone_is_named(fleet: Fleet, tmp_path: Path) -> None:
    inventory = here(fleet, tmp_path)
    (fleet.directory / "web2" / "agent.sock").rename(fleet.directory / "web2" / "gone.sock")
    done = fleet.ktls("off", "-i", inventory, "--drain", "1")
    assert done.returncode == 1
    assert "web2: NOT confirmed off: web2 unreachable" in done.stdout
    assert f"{len(fleet.names) - 1} of {len(fleet.names)} hosts read back on userspace TLS" in done.stdout
