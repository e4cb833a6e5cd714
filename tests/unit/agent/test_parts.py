# SPDX-License-Identifier: Apache-2.0
"""Parts: kept running, shown, and unable to take the order machine down."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from ktls_agent.metrics.family import Family
from ktls_agent.parts import Parts


class Failing:
    """Fails twice, then works."""

    name = "failing"

    def __init__(self) -> None:
        self.runs = 0

    async def run(self) -> None:
        self.runs += 1
        if self.runs < 3:
            raise OSError("no such thing")
        await asyncio.Event().wait()

    def status(self) -> dict[str, Any]:
        return {"runs": self.runs}

    def metrics(self) -> Iterable[Family]:
        return ()


def test_a_part_that_fails_is_started_again_and_named_meanwhile() -> None:
    async def scenario() -> None:
        part = Failing()
        parts = Parts([part], restart_s=0.05)
        parts.start()
        await asyncio.sleep(0.02)
        assert parts.problems == {"failing": "failing failed: no such thing; starting it again"}
        await asyncio.sleep(0.3)
        assert (part.runs, parts.problems, parts.status()) == (3, {}, {"failing": {"runs": 3}})
        await parts.stop()

    asyncio.run(scenario())
