# SPDX-License-Identifier: Apache-2.0
"""Events of a playbook become waves and states."""

from __future__ import annotations

from itertools import count
from typing import Any

from ktls_control.progress import RolloutProgress

_TIME = count(1000)


def event(kind: str, task: str = "", host: str = "", **fields: Any) -> dict[str, Any]:
    base = {"event": kind, "time": float(next(_TIME)), "play": "Rollout | Wave", "task": task}
    return {**base, **({"host": host} if host else {}), **fields}


def wave(*hosts: str) -> dict[str, Any]:
    return event("play", hosts=list(hosts))


GATE = {"outcome": "pass", "share": 0.99999, "bytes_total": 4_200_000}


def test_a_wave_that_passes() -> None:
    progress = RolloutProgress("tx")
    said = progress.feed(wave("web1"))
    said += progress.feed(event("start", "Wave | Order", "web1"))
    said += progress.feed(event("ok", "Wave | Order", "web1", status={"epoch": 7}))
    said += progress.feed(event("start", "Wave | Soak and judge", "web1"))
    said += progress.feed(event("ok", "Wave | Soak and judge", "web1", ktls_gate=GATE))
    said += progress.feed(event("ok", "Wave | Confirm", "web1"))
    assert said == [
        "wave 1 tx: web1",
        "web1 soaking",
        "web1 gate pass: 99.99 % of bytes, 4.2 MB judged",
        "web1 confirmed",
        "wave 1 passed",
    ]
    assert progress.epoch == 7
    assert progress.waves[0].outcome == "passed"
    assert progress.waves[0].ended is not None


def test_an_unreachable_host_fails_its_wave_and_stays_unreachable() -> None:
    progress = RolloutProgress("tx")
    progress.feed(wave("web1", "web2"))
    progress.feed(event("unreachable", "Wave | Soak and judge", "web1"))
    progress.feed(event("failed", "Wave | Unreachable during the soak is failed", "web1", msg="x"))
    said = progress.feed(event("ok", "Wave | Take the whole wave back to userspace", "web2"))
    assert said == ["web2 back on userspace TLS"]
    assert {name: host.state for name, host in progress.waves[0].hosts.items()} == {
        "web1": "unreachable",
        "web2": "reverted",
    }
    assert progress.waves[0].outcome == "failed"


def test_other_plays_are_none_of_its_business() -> None:
    progress = RolloutProgress("tx")
    other = {"event": "play", "play": "Rollout | Look at every host", "hosts": ["web1"], "time": 1.0}
    assert progress.feed(other) == []
    assert progress.waves == []
