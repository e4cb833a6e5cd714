# SPDX-License-Identifier: Apache-2.0
"""Drills on record: written whole, by several at once, and read by the plan; and how they are shown."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ktls_control.drill import record, screen
from ktls_control.errors import ControlError

PASSED = {
    "ok": True, "step": "", "why": "", "code": "", "left": "", "compared": 61, "differences": [],
    "durations": {"enable_s": 1.43, "off_s": 0.1, "drained_s": 2.2, "total_s": 6.04},
    "keyupdate": {"tx": {"peer": "ok", "peer_requested": "breaks", "own": "differs by cipher"}, "rx": None},
    "host": {"kernel": "6.12.1", "openssl": "3.5"},
}  # fmt: skip
FAILED = {**PASSED, "ok": False, "step": "drain", "why": "not within 60 s", "code": "drill_drain", "left": "userspace"}


def test_several_at_once_lose_nothing(tmp_path: Path) -> None:
    fleet = tmp_path / "state" / "fleet"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: record.keep(fleet, f"h{number}", record.entry(PASSED, "", number)), range(40)))
    found = record.load(fleet)
    assert {name: entry["at"] for name, entry in found.items()} == {f"h{number}": number for number in range(40)}
    assert [path.name for path in fleet.iterdir() if path.name.startswith(".drills.json.")] == [".drills.json.lock"]


def test_what_is_kept_is_what_the_plan_reads() -> None:
    passed, failed = record.entry(PASSED, "", 5.0), record.entry(FAILED, "", 6.0)
    assert (passed["at"], passed["passed"], passed["detail"], passed["kernel"]) == (5.0, True, "", "6.12.1")
    assert (failed["passed"], failed["detail"]) == (False, "drain: not within 60 s")
    gone = record.entry(None, "h cannot be reached: no route", 7.0)
    assert (gone["passed"], gone["detail"], gone["code"]) == (False, "h cannot be reached: no route", "cut_off")
    json.dumps([passed, failed, gone])


def test_drills_of_hw_are_kept_apart_and_say_what_the_card_did(tmp_path: Path) -> None:
    card = {"encrypted": 1_234_567, "sent": 1_200_000, "installed": 3, "software": 0, "stale": 0}
    times = {"enable_s": 1.43, "card_s": 4.2, "off_s": 0.1, "drained_s": 2.2, "total_s": 6.04}
    hw = record.entry({**PASSED, "phase": "hw", "card": card, "durations": times}, "", 9.0)
    record.keep(tmp_path, "h", record.entry(PASSED, "", 5.0))
    record.keep(tmp_path, "h", hw)
    record.keep(tmp_path, "i", record.entry(FAILED, "", 6.0))
    assert {name: one["at"] for name, one in record.load(tmp_path).items()} == {"h": 5.0, "i": 6.0}
    assert record.load(tmp_path, "hw")["h"]["card"] == card
    line = screen.line("h", hw)
    assert line == (
        "h: passed: on 1.4 s, card 4.2 s, off 0.1 s, drained 2.2 s, all 6.0 s; 1,234,567 bytes by the card's own "
        "count; 61 things as they were"
    )
    assert "CARD" in shown({"h": hw}) and "CARD" not in shown({"h": record.entry(PASSED, "", 5.0)})


@pytest.mark.parametrize("text", ["", "[]", '{"hosts": 1}', '{"hosts": {"h": 1}}', "{"])
def test_a_file_that_cannot_be_read_is_named_and_not_overwritten(tmp_path: Path, text: str) -> None:
    (tmp_path / record.FILE).write_text(text)
    with pytest.raises(ControlError, match="drill again") as caught:
        record.keep(tmp_path, "h", record.entry(PASSED, "", 1.0))
    assert caught.value.code == "bad_drills"
    assert (tmp_path / record.FILE).read_text() == text


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ControlError, match="KTLS_STATE_DIR") as caught:
        record.keep(tmp_path / "file" / "fleet", "h", record.entry(PASSED, "", 1.0))
    assert caught.value.code == "no_state_dir"
    assert os.listdir(tmp_path) == ["file"]


def shown(drills: dict[str, dict[str, Any]]) -> str:
    console = Console(width=200, record=True, file=open(os.devnull, "w", encoding="ascii"))  # noqa: SIM115
    console.print(screen.table(drills))
    return console.export_text()


def test_the_table_has_failures_first_and_times_and_keys() -> None:
    drills = {"a": record.entry(PASSED, "", 1.0), "b": record.entry(FAILED, "", 1.0)}
    drills["c"] = {**record.entry(FAILED, "", 1.0), "refused": True, "detail": "look: order r7 is committed [x]"}
    lines = shown(drills).splitlines()
    assert [line.split()[0] for line in lines] == ["HOST", "b", "c", "a"]
    assert "0.1 s" in lines[3]
    assert "ok BREAKS differs" in lines[3]
    assert "FAILED" in lines[1]
    assert "drain: not within 60 s; userspace" in lines[1]
    assert "refused" in lines[2]
    assert "[x]" in lines[2]


def test_a_host_is_a_line_when_it_is_done() -> None:
    assert screen.line("a", record.entry(PASSED, "", 1.0)) == (
        "a: passed: on 1.4 s, off 0.1 s, drained 2.2 s, all 6.0 s; 61 things as they were"
    )
    assert screen.line("b", record.entry(FAILED, "", 1.0)) == "b: FAILED: drain: not within 60 s; left in userspace"
    gone = record.entry(None, "c: c cannot be reached: no route", 1.0)
    assert screen.line("c", gone) == "c: FAILED: c cannot be reached: no route"
