# SPDX-License-Identifier: Apache-2.0
"""The daemon as it is built for a host: guards, audit trail and doctor are in it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from ktls_agent.audit_files import verify
from ktls_agent.daemon import build
from ktls_agent.doctor.gather import gather
from ktls_host import jsonsock

from ..test_daemon import config


def test_a_built_daemon_has_them(tmp_path: Path) -> None:
    for name in ("lib", "run"):
        (tmp_path / name).mkdir()

    async def main() -> None:
        daemon = build(config(tmp_path))
        named = {part.name: part for part in daemon.parts.all}
        assert named["evidence"].on_news == named["guards"].wake, "a new snapshot is looked at at once"  # type: ignore[attr-defined]
        ready = asyncio.Event()
        task = asyncio.ensure_future(daemon.run(ready.set))
        await asyncio.wait_for(ready.wait(), 5)
        path = daemon.config.socket
        status = await asyncio.to_thread(jsonsock.call, path, {"verb": "status"}, 10.0)
        assert status["guards"]["armed"] is False
        assert status["guards"]["rules"]["bad_record"]["state"] == "blind"
        assert "digest" not in status
        assert len(json.dumps(status)) < jsonsock.MAX_LINE / 4
        told = await asyncio.to_thread(jsonsock.call, path, {"verb": "doctor"}, 10.0)
        assert set(told["digest"]) == {"start", "now", "cost"}
        evidence = await asyncio.to_thread(gather, path, "/nowhere")
        assert any(text.startswith("the sidecar: ") for text in evidence.unseen)
        assert any("no snapshot yet" in text for text in evidence.unseen)
        # Told once, however often it is looked at.
        names = {family.name for part in daemon.parts.all for family in part.metrics()}
        assert {"ktls_guard_state", "ktls_guard_trips_total", "ktls_probe_total", "ktls_audit_records_total"} <= names
        daemon.stop()
        await asyncio.wait_for(task, 10)

    asyncio.run(main())
    found = verify(str(tmp_path / "lib/audit"))
    assert found.records >= 1
    # The head is beside the agent's socket.
    assert (tmp_path / "audit.head").read_text().split()[1] == found.head.sha256


def test_a_trail_that_cannot_be_written_is_a_problem_of_the_host_and_stops_nothing(tmp_path: Path) -> None:
    for name in ("lib", "run"):
        (tmp_path / name).mkdir()
    (tmp_path / "lib/audit").write_text("in the way")

    async def main() -> None:
        daemon = build(config(tmp_path))
        ready = asyncio.Event()
        task = asyncio.ensure_future(daemon.run(ready.set))
        await asyncio.wait_for(ready.wait(), 5)
        request = {"verb": "off", "reason": "drill"}
        status = await asyncio.to_thread(jsonsock.call, daemon.config.socket, request, 10.0)
        assert status["off"]["flag"] is True
        for _ in range(100):
            status = await asyncio.to_thread(jsonsock.call, daemon.config.socket, {"verb": "status"}, 10.0)
            if any("takes no audit records" in problem for problem in status["problems"]):
                break
        else:
            raise AssertionError(status["problems"])
        daemon.stop()
        await asyncio.wait_for(task, 10)

    asyncio.run(main())
