# SPDX-License-Identifier: Apache-2.0
"""A host that allows no user namespaces: the agent says why it does not start, and the drop-in of docs/off.md helps."""

from __future__ import annotations

import pytest

from ..fleet.fleet import Deployed
from .on_host import HOST, shell

DROP_IN = "/run/systemd/system/ktls-agent.service.d"
LIMIT = "user.max_user_namespaces"


@pytest.mark.more
def test_a_host_without_user_namespaces_takes_a_drop_in(deployed: Deployed) -> None:
    before = shell(deployed, f"sysctl -n {LIMIT}").strip()
    shell(deployed, f"sysctl -qw {LIMIT}=0")
    try:
        assert deployed.lab.ssh(HOST, "systemctl restart ktls-agent", timeout=120).returncode != 0
        # From the log: while systemd tries again the unit's own status is that of the new try.
        said = shell(deployed, "journalctl --unit=ktls-agent --boot --output=cat --no-pager")
        assert "status=217/USER" in said, "EXIT_USER of systemd.exec(5): the user namespace could not be set up"
        shell(
            deployed,
            f"mkdir -p {DROP_IN}; printf '[Service]\\nPrivateUsers=no\\n' >{DROP_IN}/users.conf; "
            "systemctl daemon-reload; systemctl restart ktls-agent",
        )
        assert deployed.agent(HOST, "status")["ok"]
    finally:
        shell(
            deployed,
            f"sysctl -qw {LIMIT}={before}; rm -rf {DROP_IN}; systemctl daemon-reload; systemctl restart ktls-agent",
        )
    deployed.wait("the agent answers", lambda: bool(deployed.agent(HOST, "status")["ok"]), 60)
