# SPDX-License-Identifier: Apache-2.0
"""What an unreachable host will do, from journals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ktls_control.errors import ControlError
from ktls_control.off.outlook import History, outlook
from ktls_control.off.runs import Run, runs, stop, wave_hosts
from ktls_control.rollout import control
from ktls_control.rollout.state import RunState, fold
from ktls_control.rollout.store import fleet_name


def started(run: str, at: float, phase: str = "tx") -> dict[str, Any]:
    waves = [{"number": 1, "name": "canary", "hosts": ["a"]}, {"number": 2, "name": "rest", "hosts": ["b", "c"]}]
    return {"event": "run_started", "at": at, "run": run, "fleet": "f", "epoch": 7, "phase": phase, "plan_sha256": "0",
            "operator": "x", "hosts": 3, "waves": waves}  # fmt: skip


def wave(number: int, at: float, *hosts: str, lease_s: float = 100.0) -> dict[str, Any]:
    return {"event": "wave_opened", "at": at, "wave": number, "name": "", "hosts": hosts, "attempt": 1, "order_id": "o",
            "epoch": 7, "lease_s": lease_s}  # fmt: skip


def event(name: str, at: float, **more: Any) -> dict[str, Any]:
    return {"event": name, "at": at, "wave": 1, "host": "a", "ok": True, **more}


def state(*events: dict[str, Any]) -> list[tuple[str, RunState]]:
    return [("r1", fold([started("r1", 1000.0), *events]))]


def test_an_unconfirmed_order_ends_with_its_lease() -> None:
    known = state(wave(1, 1001.0, "a"), event("host_ordered", 1010.0))
    seen = outlook("a", known, 1050.0, flag=False)
    assert (seen.kind, seen.deadline, seen.run) == ("reverts", 1110.0, "r1")
    assert "in 60 s (wave 1 of run r1)" in seen.text
    assert "repeat" not in seen.text, "nobody has to do anything"
    assert "its lease ended by" in outlook("a", known, 1111.0, flag=False).text


def test_the_hosts_own_word_on_its_lease_counts() -> None:
    seen = event("observed", 1040.0, hosts={"a": {"reachable": True, "lease_left_s": 30.0}})
    assert (
        outlook("a", state(wave(1, 1001.0, "a"), event("host_ordered", 1010.0), seen), 1050.0, flag=False).deadline
        == 1070.0
    )


def test_an_order_on_its_way_counts_from_now() -> None:
    assert outlook("a", state(wave(1, 1001.0, "a")), 1050.0, flag=False).deadline == 1150.0


def test_an_order_that_may_have_arrived_ends_too() -> None:
    lost = event("host_ordered", 1010.0, ok=False, code="cut_off", error="gone")
    assert outlook("a", state(wave(1, 1001.0, "a"), lost), 1050.0, flag=False).kind == "reverts"


def test_a_confirmed_host_holds_and_needs_the_flag_or_us() -> None:
    known = state(wave(1, 1001.0, "a"), event("host_ordered", 1010.0), event("host_confirmed", 1030.0))
    seen = outlook("a", known, 5000.0, flag=False)
    assert (seen.kind, seen.deadline, seen.pulls) == ("holds", None, False)
    assert "holds tx, confirmed" in seen.text
    assert "repeat `ktls off`" in seen.text
    pulled = outlook("a", known, 5000.0, flag=True)
    assert pulled.pulls
    assert "obeys within seconds of reaching an endpoint" in pulled.text
    assert "no off was published" in outlook("a", known, 5000.0, flag=None).text


def test_between_judgement_and_confirmation_nobody_can_say() -> None:
    known = state(wave(1, 1001.0, "a"), event("host_ordered", 1010.0), event("confirming", 1030.0))
    seen = outlook("a", known, 1031.0, flag=False)
    assert seen.kind == "unknown"
    assert "unless its confirmation arrived: then it holds tx" in seen.text


def test_who_was_never_ordered_in_the_newest_run_is_looked_up_in_older_ones() -> None:
    old = fold([started("r0", 10.0), wave(2, 11.0, "b"), event("host_confirmed", 20.0, host="b", wave=2)])
    seen = outlook("b", [*state(), ("r0", old)], 5000.0, flag=False)
    assert (seen.kind, seen.run) == ("holds", "r0")
    assert outlook("c", [*state(), ("r0", old)], 5000.0, flag=False).kind == "unknown"


def test_userspace_is_userspace() -> None:
    back = state(wave(1, 1.0, "a"), event("host_reverted", 2.0))
    assert outlook("a", back, 5.0, flag=False).kind == "userspace"
    down = [("r2", fold([started("r2", 1.0, "userspace"), wave(1, 1.0, "a"), event("host_confirmed", 2.0)]))]
    assert outlook("a", down, 5.0, flag=False).kind == "userspace"


# --- on the disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path))
    return tmp_path / fleet_name("a,b,c", "ktls_hosts") / "runs"


def write(runs_dir: Path, name: str, text: str, at: float) -> Run:
    import os

    place = runs_dir / name
    place.mkdir(parents=True)
    (place / "journal.jsonl").write_text(text)
    os.utime(place / "journal.jsonl", (at, at))
    return Run(place)


def lines(*events: dict[str, Any]) -> str:
    return "".join(json.dumps(each) + "\n" for each in events)


def test_a_line_that_is_half_written_is_left_out(fleet: Path) -> None:
    whole = lines(started("r1", 1.0), wave(1, 2.0, "a"))
    run = write(fleet, "r1", whole + '{"event": "run_en', 5.0)
    assert run.under_way()
    assert [name for name, _state in History([run])] == ["r1"]
    ended = write(fleet, "r2", whole + lines({"event": "run_ended", "at": 9.0, "outcome": "off"}) + "{", 6.0)
    assert not ended.under_way()
    assert [each.name for each in runs("a,b,c", "ktls_hosts")] == ["r2", "r1"]
    assert wave_hosts([ended, run], 2, None) == ["b", "c"]


def test_a_journal_that_cannot_be_read_is_no_obstacle(fleet: Path) -> None:
    run = write(fleet, "r1", "what?\n", 5.0)
    assert run.under_way(), "to tell it to end costs nothing"
    assert list(History([run])) == []
    with pytest.raises(ControlError, match="its journal cannot be read"):
        wave_hosts([run], 1, None)
    stop(run, "me", "why")
    assert control.look(run.control).off == control.Asked("me", "why")


def test_no_more_journals_are_read_than_it_takes(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    confirmed = {"event": "host_confirmed", "wave": 1, "host": "a", "ok": True, "at": 3.0}
    for number in (1, 2, 3):
        write(fleet, f"r{number}", lines(started(f"r{number}", 1.0), wave(1, 2.0, "a"), confirmed), float(number))
    read: list[str] = []
    real = Run.state

    def state_of(run: Run) -> RunState | None:
        read.append(run.name)
        return real(run)

    monkeypatch.setattr(Run, "state", state_of)
    known = History(runs("a,b,c", "ktls_hosts"))
    assert [outlook("a", known, 9.0, flag=False).run for _again in range(2)] == ["r3", "r3"]
    assert read == ["r3"]
    assert outlook("b", known, 9.0, flag=False).kind == "unknown"
    assert read == ["r3", "r2", "r1"]


def test_no_runs(fleet: Path) -> None:
    assert runs("a,b,c", "ktls_hosts") == []
    with pytest.raises(ControlError, match="no run of this fleet"):
        wave_hosts([], 1, None)
    with pytest.raises(ControlError, match="no run r9 of this fleet"):
        wave_hosts([], 1, "r9")
