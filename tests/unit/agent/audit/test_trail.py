# SPDX-License-Identifier: Apache-2.0
"""The trail as it is written: in order, over bad disks and power cuts, without anybody waiting for it."""

from __future__ import annotations

import errno
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ktls_agent.audit_files import TamperedError, read_anchor, verify, walk
from ktls_agent.audit_journal import MESSAGE_ID, Journal
from ktls_agent.audit_trail import AuditTrail

Make = Callable[..., AuditTrail]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[AuditTrail] = []

    def start(**how: Any) -> AuditTrail:
        made.append(AuditTrail(str(tmp_path / "audit"), boot_id="b1", **{"retry_s": 0.02, **how}))
        return made[-1]

    yield start
    for trail in made:
        trail.close()


def events(tmp_path: Path) -> list[str]:
    return [record["event"] for record, _ in walk(str(tmp_path / "audit"))]


def wait(check: Callable[[], object]) -> None:
    deadline = time.monotonic() + 5
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_records_are_chained_in_order_and_hold_what_was_meant(make: Make, tmp_path: Path) -> None:
    trail = make()
    detail = {"id": "o1", "list": [1]}
    trail.record("order", **detail)
    detail["id"] = "changed later"
    for number in range(50):
        trail.record("tick", n=number)
    assert trail.flush()
    records = [record for record, _ in walk(str(tmp_path / "audit"))]
    assert records[0]["detail"] == {"id": "o1", "list": [1]}
    assert [record["detail"].get("n") for record in records[1:]] == list(range(50))
    assert {record["boot_id"] for record in records} == {"b1"}
    found = verify(str(tmp_path / "audit"))
    assert (found.records, found.head) == (51, trail.head)
    assert trail.status() == {"seq": 51, "head": found.head.sha256, "waiting": 0, "lost": 0, "problem": None}


def test_many_threads_make_one_chain(make: Make, tmp_path: Path) -> None:
    trail = make()
    threads = [
        threading.Thread(target=lambda: [trail.record("x", n=number) for number in range(40)])  # type: ignore[func-returns-value]
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trail.flush()
    assert verify(str(tmp_path / "audit")).records == 200


def test_a_restart_goes_on(make: Make, tmp_path: Path) -> None:
    for number in range(3):
        trail = make()
        trail.record("run", n=number)
        trail.close()
    assert verify(str(tmp_path / "audit")).records == 3


def test_whatever_is_recorded_nothing_is_raised(make: Make, tmp_path: Path) -> None:
    trail = make()
    endless: list[Any] = []
    endless.append(endless)
    trail.record("odd", value=object(), number=float("nan"))
    trail.record("odd", loop=endless)
    trail.record("odd", text="\ud800 \n é \x00", long="x" * 100_000)
    trail.record("even", n=1)
    assert trail.flush()
    details = [record["detail"] for record, _ in walk(str(tmp_path / "audit"))]
    assert details[0] == {"unreadable": True, "names": ["number", "value"]}
    assert details[1]["unreadable"]
    assert details[2]["cut"]
    assert details[3] == {"n": 1}
    verify(str(tmp_path / "audit"))


class Disk:
    """os.write that fails when told to, after writing some of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.error: int | None = None
        self.part = 0
        self.sync_error: int | None = None
        self.truncate_error: int | None = None
        self._write, self._ftruncate = os.write, os.ftruncate
        monkeypatch.setattr(os, "write", self.write)
        monkeypatch.setattr(os, "fsync", self.fsync)
        monkeypatch.setattr(os, "ftruncate", self.ftruncate)

    def write(self, handle: int, data: bytes) -> int:
        if self.error is None:
            return self._write(handle, data)
        if self.part:
            self._write(handle, data[: self.part])
        raise OSError(self.error, os.strerror(self.error))

    def fsync(self, handle: int) -> None:
        if self.sync_error is not None:
            raise OSError(self.sync_error, os.strerror(self.sync_error))

    def ftruncate(self, handle: int, length: int) -> None:
        if self.truncate_error is not None:
            raise OSError(self.truncate_error, os.strerror(self.truncate_error))
        self._ftruncate(handle, length)


@pytest.mark.parametrize("part", [0, 10])
@pytest.mark.parametrize("truncate_error", [None, errno.EROFS])
def test_a_full_disk_keeps_nobody_waiting_and_loses_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: int, truncate_error: int | None
) -> None:
    trail = make()
    trail.record("before")
    assert trail.flush()
    disk = Disk(monkeypatch)
    disk.error, disk.part, disk.truncate_error = errno.ENOSPC, part, truncate_error
    for number in range(5):
        trail.record("during", n=number)
    wait(lambda: trail.problem)
    assert "No space left" in str(trail.status()["problem"])
    assert trail.status()["waiting"] == 5
    disk.error = disk.truncate_error = None
    assert trail.flush()
    assert trail.problem is None
    torn = ["audit_torn"] if part and truncate_error else []
    assert events(tmp_path) == ["before", *torn, *["during"] * 5]
    assert verify(str(tmp_path / "audit")).torn == len(torn)


@pytest.mark.parametrize("truncate_error", [None, errno.EIO])
def test_a_record_that_was_written_though_fsync_failed_is_not_written_twice_over(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, truncate_error: int | None
) -> None:
    trail = make()
    trail.record("one")
    assert trail.flush()
    disk = Disk(monkeypatch)
    disk.sync_error, disk.truncate_error = errno.EIO, truncate_error
    trail.record("two")
    wait(lambda: trail.problem)
    disk.sync_error = disk.truncate_error = None
    trail.record("three")
    assert trail.flush()
    found = verify(str(tmp_path / "audit"))
    assert found.head == trail.head
    assert events(tmp_path)[-1] == "three"


def test_overflow_is_a_gap_with_a_count_in_its_place(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trail = make(queue=10)
    trail.record("before")
    assert trail.flush()
    disk = Disk(monkeypatch)
    disk.error = errno.ENOSPC
    for number in range(25):
        trail.record("x", n=number)
    assert trail.status()["lost"] == 15
    disk.error = None
    wait(lambda: trail.status()["waiting"] == 0)
    trail.record("after")
    assert trail.flush()
    records = [record for record, _ in walk(str(tmp_path / "audit"))]
    assert [record["event"] for record in records] == ["before", *["x"] * 10, "audit_gap", "after"]
    assert records[-2]["detail"]["lost"] == 15
    assert verify(str(tmp_path / "audit")).gaps == 1


def test_recording_does_not_wait_for_the_disk(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = threading.Event()
    trail = make(queue=10)
    monkeypatch.setattr(os, "fsync", lambda handle: stuck.wait(5))
    started = time.monotonic()
    for _ in range(1000):
        trail.record("x")
    assert time.monotonic() - started < 0.5
    stuck.set()


@pytest.mark.parametrize("torn", [b"{", b'{"seq": 9}', b"\x00" * 3000, b"\n\n"])
def test_a_torn_end_is_set_aside_and_told(make: Make, tmp_path: Path, torn: bytes) -> None:
    trail = make()
    for number in range(3):
        trail.record("x", n=number)
    trail.close()
    current = tmp_path / "audit/audit.jsonl"
    with current.open("ab") as handle:
        handle.write(torn)
    with pytest.raises(TamperedError):
        verify(str(tmp_path / "audit"))
    trail = make()
    trail.record("again")
    assert trail.flush()
    assert events(tmp_path) == ["x", "x", "x", "audit_torn", "again"]
    (aside,) = (tmp_path / "audit").glob("audit.torn-*")
    assert aside.read_bytes() == torn
    assert verify(str(tmp_path / "audit")).torn == 1


def test_a_last_record_cut_short_is_torn_too(make: Make, tmp_path: Path) -> None:
    trail = make()
    for number in range(3):
        trail.record("x", n=number)
    trail.close()
    current = tmp_path / "audit/audit.jsonl"
    current.write_bytes(current.read_bytes()[:-7])
    trail = make()
    trail.record("again")
    assert trail.flush()
    assert events(tmp_path) == ["x", "x", "audit_torn", "again"]
    verify(str(tmp_path / "audit"))


def test_rotation_carries_the_chain_and_old_files_go_with_a_record(make: Make, tmp_path: Path) -> None:
    trail = make(max_bytes=2000, keep_files=3)
    for number in range(60):
        trail.record("x", n=number)
    assert trail.flush()
    found = verify(str(tmp_path / "audit"))
    assert len(found.files) == 4
    assert found.first_seq > 1
    assert found.head == trail.head
    names = [name for name in os.listdir(tmp_path / "audit") if name != "audit.jsonl"]
    assert len(names) == 3
    trail.close()
    trail = make(max_bytes=2000, keep_files=3)
    trail.record("after a restart")
    assert trail.flush()
    assert verify(str(tmp_path / "audit")).head == trail.head


def test_a_crash_between_the_steps_of_a_rotation(make: Make, tmp_path: Path) -> None:
    trail = make()
    trail.record("x")
    trail.close()
    os.rename(tmp_path / "audit/audit.jsonl", tmp_path / "audit/audit-000000000001.jsonl")
    trail = make()
    trail.record("y")
    assert trail.flush()
    assert verify(str(tmp_path / "audit")).records == 2
    trail.close()
    os.rename(tmp_path / "audit/audit.jsonl", tmp_path / "audit/audit-000000000002.jsonl")
    (tmp_path / "audit/audit.jsonl").touch()
    trail = make()
    trail.record("z")
    assert trail.flush()
    assert verify(str(tmp_path / "audit")).records == 3


def test_a_file_that_was_taken_away_is_missed(make: Make, tmp_path: Path) -> None:
    trail = make()
    for _ in range(3):
        trail.record("x")
    assert trail.flush()
    (tmp_path / "audit/audit.jsonl").unlink()
    trail.record("y")
    assert trail.flush()
    with pytest.raises(TamperedError, match="begins with record 4"):
        verify(str(tmp_path / "audit"))


def test_two_agents_do_not_write_one_trail(make: Make, tmp_path: Path) -> None:
    first = make()
    first.record("x")
    assert first.flush()
    second = make()
    second.record("y")
    wait(lambda: second.problem)
    assert "another agent" in str(second.problem)
    first.close()
    assert second.flush()
    assert verify(str(tmp_path / "audit")).records == 2


def test_the_head_is_anchored_outside(make: Make, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "journal"))
        journal.settimeout(5)
        trail = make(anchor=str(tmp_path / "run"), journal=Journal(str(tmp_path / "journal")))
        trail.record("guard_trip", guard="decrypt_error", detail="a\nPRIORITY=0\nb")
        assert trail.flush()
        lines = journal.recv(65536).decode().splitlines()
    fields = dict(line.split("=", 1) for line in lines)
    assert fields["MESSAGE_ID"] == MESSAGE_ID
    assert (fields["KTLS_AUDIT_SHA256"], fields["PRIORITY"]) == (trail.head.sha256, "4")
    assert "decrypt_error" in fields["MESSAGE"]
    assert sum(line.startswith("PRIORITY=") for line in lines) == 1, "a value cannot make a field"
    assert read_anchor(str(tmp_path / "run/audit.head")) == trail.head


def test_without_journal_and_anchor_the_trail_is_written(make: Make, tmp_path: Path) -> None:
    trail = make(anchor=str(tmp_path / "nowhere"), journal=Journal(str(tmp_path / "nothing")))
    trail.record("x")
    assert trail.flush()
    assert json.loads((tmp_path / "audit/audit.jsonl").read_text())["seq"] == 1
