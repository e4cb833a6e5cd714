# SPDX-License-Identifier: Apache-2.0
"""Events of a journal become waves and states."""

from __future__ import annotations

from itertools import count
from typing import Any

from ktls_control.progress import RolloutProgress

_TIME = count(1000)


def event(name: str, /, wave: int = 1, **fields: Any) -> dict[str, Any]:
    return {"event": name, "at": float(next(_TIME)), "wave": wave, **fields}


def opened(*hosts: str) -> dict[str, Any]:
    return event("wave_opened", name="canary", hosts=list(hosts), attempt=1, order_id="r-w1", epoch=7, lease_s=60.0)


SEEN = {"reachable": True, "sent": 4_200_000, "share": 0.99999}
PASS = {"outcome": "pass", "reasons": [], "hosts": {}}


def test_a_gate_names_what_its_share_rests_on() -> None:
    progress = RolloutProgress("?")
    progress.feed({"event": "run_started", "at": 1.0, "epoch": 7, "phase": "tx"})
    progress.feed(opened("web1"))
    progress.feed(event("host_ordered", host="web1", ok=True))
    progress.feed(event("soak_started", min_s=20.0, max_s=60.0))
    # What counts begins anew when nothing of before the order is left: of that it was not known, of this it is.
    progress.feed(event("observed", hosts={"web1": {**SEEN, "unattributed": 4_200_000}}))
    progress.feed(event("observed", hosts={"web1": {**SEEN, "presumed": 1_234_567}}))
    said = progress.feed(event("verdict", outcome="pass", verdict=PASS, recheck={}))
    assert said == ["web1 gate pass: 99.99 % of bytes, 4.2 MB judged; 1.2 MB on the host presumed, of its own clients"]


def test_a_wave_that_passes() -> None:
    progress = RolloutProgress("?")
    said = progress.feed({"event": "run_started", "at": 1.0, "epoch": 7, "phase": "tx"})
    said += progress.feed(opened("web1"))
    said += progress.feed(event("host_ordered", host="web1", ok=True))
    said += progress.feed(event("soak_started", min_s=20.0, max_s=60.0))
    said += progress.feed(event("observed", hosts={"web1": SEEN}))
    said += progress.feed(event("verdict", outcome="pass", verdict=PASS, recheck={}))
    said += progress.feed(event("confirming"))
    said += progress.feed(event("host_confirmed", host="web1", ok=True))
    said += progress.feed(event("wave_promoted"))
    assert said == [
        "wave 1 tx: web1",
        "wave 1 soaking, 20 to 60 s",
        "web1 gate pass: 99.99 % of bytes, 4.2 MB judged",
        "web1 confirmed",
        "wave 1 passed",
    ]
    assert progress.epoch == 7
    assert progress.waves[0].outcome == "passed"
    assert progress.waves[0].ended is not None
    assert progress.verdicts["web1"] == {"share": 0.99999, "bytes_total": 4_200_000, "outcome": "pass"}


def test_an_unreachable_host_fails_its_wave_and_stays_unreachable() -> None:
    progress = RolloutProgress("tx")
    progress.feed(opened("web1", "web2"))
    said = progress.feed(
        event("host_ordered", host="web1", ok=False, code="cut_off", error="web1 cannot be reached: x")
    )
    assert said == ["web1 unreachable: cannot be reached: x"]
    progress.feed(event("host_ordered", host="web2", ok=True))
    said = progress.feed(event("wave_reverting", why="web1 cannot be reached: x"))
    said += progress.feed(event("host_reverted", host="web1", ok=False, lease_left_s=41.2))
    said += progress.feed(event("host_reverted", host="web2", ok=True))
    assert said == [
        "wave 1 failed: web1 cannot be reached: x",
        "web1 not reached; its lease takes it back in 41 s",
        "web2 back on userspace TLS",
    ]
    assert {name: host.state for name, host in progress.waves[0].hosts.items()} == {
        "web1": "unreachable",
        "web2": "reverted",
    }
    assert progress.waves[0].outcome == "failed"


def test_whoever_is_waited_for_is_told_how() -> None:
    progress = RolloutProgress("tx")
    progress.feed(opened("web1"))
    assert progress.feed(event("waiting", on="approval")) == [
        "wave 1 waits for approval: `ktls promote` or `ktls abort`"
    ]
    assert progress.feed(event("waited", on="approval", by="ada@control1")) == ["wave 1 goes on: ada@control1"]
    progress.feed({"event": "run_ended", "at": 9.0, "outcome": "aborted", "why": "aborted by ada"})
    assert (progress.outcome, progress.why) == ("aborted", "aborted by ada")
