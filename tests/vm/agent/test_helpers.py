# SPDX-License-Identifier: Apache-2.0
"""Root's helpers under their units: what they may do there, and for whom."""

from __future__ import annotations

from ..fleet.fleet import Deployed
from .on_host import guest, shell


def test_helpers_work_for_the_agent_and_for_nobody_else(deployed: Deployed) -> None:
    deployed.settle()
    found = guest(deployed, "helpers")
    # Root without any capability: systemd lets it start and stop the timer.
    assert found["lease arm"] == {"ok": True, "timer": "active"}, found
    assert found["after arm"] == "active"
    assert found["lease disarm"] == {"ok": True, "timer": "inactive"}
    assert found["after disarm"] == "inactive"
    assert (found["module unload"]["loaded"], found["after unload"]) == (False, False), found["module unload"]
    assert (found["module load"]["loaded"], found["after load"]) == (True, True), found["module load"]
    # What was before is on record: of the module, and of the deploy.
    assert shell(deployed, "ls /var/lib/ktls-levers").split() == ["module.json", "release.json"]
    # A virtual card has no such feature to change: nothing done, and nothing wrong.
    assert (found["nic off"]["ok"], found["nic off"]["interfaces"]) == (True, {}), found["nic off"]
    assert "Permission denied" in found["nobody"], found["nobody"]
    assert found["nobody past the mode"]["error"]["code"] == "not_permitted"
