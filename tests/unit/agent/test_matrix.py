# SPDX-License-Identifier: Apache-2.0
"""Killed or in error at every step of every verb: at each place, each accident, and then the promises.

Never kTLS without a durable intent or record; unconfirmed is userspace by its deadline and a tick; a stale epoch never
wins; OFF is never blocked. See faults.py for what is checked, and for what an accident does.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from .faults import SCENES, Accident, FaultyHost, Scene, check, off_it, play, wall

KINDS = {"power": "kill"}
LEAST = {"order": 13, "confirm": 6, "extend": 6, "revert": 8, "recover pending": 8}


async def places(directory: Path, scene: Scene) -> list[str]:
    """Return the checkpoints of ``scene``, by playing it without an accident."""
    host = FaultyHost(directory / "places")
    quiet = Accident("none")
    agent = await play(host, scene, quiet)
    assert agent is not None
    agent.close()
    assert len(quiet.seen) >= LEAST.get(scene.name, 2), quiet.seen
    return quiet.seen


@pytest.mark.parametrize("kind", ["kill", "power", "once", "lasting", "hang", "wall", "frozen"])
@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_at_every_step(scene: Scene, kind: str, memory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        names = await places(memory, scene)
        for number, name in enumerate(names):
            if kind == "hang" and name.split()[1] in ("put", "drop", "probe"):
                continue  # a disk that hangs is a test of its own; a probe has its own time limit
            host = FaultyHost(memory / str(number))
            host.threads = kind in ("kill", "power")  # where something may overtake something else
            monkeypatch.setattr(time, "time", wall(host))
            accident = Accident(("wall+", "wall-")[number % 2] if kind == "wall" else KINDS.get(kind, kind), number)
            agent = await play(host, scene, accident)
            where = f"{scene.name}: {kind} at {name}"
            assert accident.met, f"{where} was not reached"
            if kind == "power":
                host.power_cut()
            await check(host, scene, agent, where)

    asyncio.run(main())


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_off_ends_in_userspace_while_the_fault_lasts(scene: Scene, memory: Path) -> None:
    async def main() -> None:
        for number, name in enumerate(await places(memory, scene)):
            host = FaultyHost(memory / str(number))
            host.threads = False
            agent = await play(host, scene, Accident("lasting", number))
            if agent is None or name.split()[1] == "probe":
                continue
            await asyncio.wait_for(off_it(host, agent), 3.0)
            assert host.sidecar.effective == "userspace", f"{scene.name}: off was blocked at {name}"
            assert agent.state.latched
            agent.close()

    asyncio.run(main())
