# SPDX-License-Identifier: Apache-2.0
"""The power goes while an order is pending: undone before anything serves."""

from __future__ import annotations

from ..fleet.fleet import Deployed, new_connection_is_ktls
from .on_host import HOST, guest, shell


def test_after_a_power_cut_the_boot_check_is_done_before_anything_serves(deployed: Deployed) -> None:
    epoch = deployed.agent(HOST, "status")["epoch"]
    assert deployed.order(HOST, "tx", epoch + 1, lease_s=600, identity="power")["order"] == "pending"
    guest(deployed, "put")
    deployed.lab.fault(HOST, "power-cut")
    deployed.lab.fault(HOST, "reboot")
    deployed.wait("the agent answers", lambda: bool(deployed.agent(HOST, "status")["ok"]), 60)
    units = ("ktls-boot", "ktls-agent", "ktls-sidecar")
    shown = shell(
        deployed,
        f"for unit in {' '.join(units)}; do systemctl show -p ExecMainStartTimestampMonotonic "
        "-p ExecMainExitTimestampMonotonic -p Result $unit; echo; done",
    )
    blocks = [dict(line.split("=", 1) for line in block.splitlines()) for block in shown.strip().split("\n\n")]
    found = dict(zip(units, blocks))
    checked = int(found["ktls-boot"]["ExecMainExitTimestampMonotonic"])
    print(f"\nboot check: ended {checked / 1e6:.2f} s after boot")
    assert found["ktls-boot"]["Result"] == "success"
    assert checked > 0
    for unit in units[1:]:
        assert checked <= int(found[unit]["ExecMainStartTimestampMonotonic"]), found
    assert shell(deployed, "ls /run/ktls/lapsed /var/lib/ktls/lease.reverted").count("\n") == 2
    assert "was not confirmed before this boot" in shell(deployed, "journalctl -q -b -u ktls-boot -o cat")
    assert not new_connection_is_ktls(deployed, HOST)
    status = deployed.agent(HOST, "status")
    assert (status["order"], status["phase"], status["epoch"]) == ("reverted", "userspace", epoch + 1)


def test_after_a_power_cut_what_was_confirmed_is_there_again(deployed: Deployed) -> None:
    epoch = deployed.settle([HOST]) + 1
    assert deployed.order(HOST, "tx", epoch, lease_s=600, identity="confirmed")["order"] == "pending"
    assert deployed.agent(HOST, "confirm", "--id", "confirmed", "--epoch", str(epoch))["order"] == "committed"
    deployed.lab.fault(HOST, "power-cut")
    deployed.lab.fault(HOST, "reboot")
    deployed.wait("tx again", lambda: deployed.status()[HOST].get("phase") == "tx", 60)
    assert new_connection_is_ktls(deployed, HOST)
    deployed.settle([HOST])
