# SPDX-License-Identifier: Apache-2.0
"""The real service as a process of its own, which SIGKILLs itself at the checkpoint that KTLS_TEST_KILL_AT names.

Only what this machine does not have is played: the kernel's TLS, and a server to probe.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from ktls_agent import config, daemon
from ktls_agent.probe import ProbeResult


def checkpoint(name: str) -> None:
    """Die here, if it is the place and the agent has started: no handler, no buffer and no finally runs."""
    if STARTED and name == os.environ.get("KTLS_TEST_KILL_AT"):
        os.kill(os.getpid(), signal.SIGKILL)


def self_test(timeout_s: float) -> ProbeResult:
    """See kTLS."""
    checkpoint("probe")
    return ProbeResult(True, 0.0, 0.01, True, True, "TLSv1.3", "C")


STARTED: list[bool] = []


async def main() -> None:
    """Serve until SIGTERM."""
    service = daemon.build(config.load(sys.argv[1]))
    service.agent._store._checkpoint = checkpoint
    service.agent._available = lambda: True
    service.agent._self_test = self_test
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, service.stop)

    def ready() -> None:
        STARTED.append(True)
        print("ready", flush=True)

    await service.run(ready)


asyncio.run(main())
