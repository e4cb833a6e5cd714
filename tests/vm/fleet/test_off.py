# SPDX-License-Identifier: Apache-2.0
"""Off over SSH on real kernels, where the agent or Python is gone: read back from the kernel alone."""

from __future__ import annotations

import json

from .fleet import Deployed
from .test_host_safety import new_connection_is_ktls


def test_off_is_read_back_from_the_kernel_when_agent_and_python_are_gone(deployed: Deployed) -> None:
    epoch = deployed.settle(["web1"])
    assert deployed.order("web1", "tx", epoch + 1, identity="no-python")["ok"]
    assert new_connection_is_ktls(deployed, "web1")
    deployed.lab.ssh("web1", "systemctl stop ktls-agent; mv /usr/bin/python3 /usr/bin/python3.away")
    try:
        done = deployed.ktls("off", "--host", "web1", "--json", "--drain", "20")
        host = json.loads(done.stdout)["hosts"]["web1"]
        assert (host["off"], host["flag"], host["by"], host["left"]) == (True, True, "kernel", 0), host
        assert "the agent did not answer" in host["note"]
        assert done.returncode == 0
        assert not new_connection_is_ktls(deployed, "web1")
    finally:
        deployed.lab.ssh("web1", "mv /usr/bin/python3.away /usr/bin/python3; systemctl start ktls-agent")
    deployed.wait("the agent answers", lambda: deployed.agent("web1", "status")["ok"], 60)
    assert deployed.agent("web1", "status")["off"]["flag"] is True
