# SPDX-License-Identifier: Apache-2.0
"""The journal keeps what was written, and notices what was not."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from ktls_control.errors import ControlError
from ktls_control.rollout import journal
from ktls_control.rollout.journal import Journal


def filled(path: Path, count: int = 4) -> list[journal.Event]:
    with Journal(path) as opened:
        for number in range(count):
            opened.append("confirming", wave=number)
        return list(opened.events)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_events_come_back_as_written_chained_and_numbered(path: Path) -> None:
    events = filled(path)
    assert journal.read(path) == events
    assert [event["seq"] for event in events] == [1, 2, 3, 4]
    assert [event["prev"] for event in events] == ["", *(event["sha256"] for event in events[:-1])]


def test_what_no_event_has_is_not_written(path: Path) -> None:
    with Journal(path) as opened:
        with pytest.raises(ValueError, match="there is no event 'lunch'"):
            opened.append("lunch")
        with pytest.raises(ValueError, match=r"missing keys \['wave'\], unknown keys \['wafe'\]"):
            opened.append("confirming", wafe=1)
        opened.append("waited", wave=1, on="freeze")
    assert len(journal.read(path)) == 1


@pytest.mark.parametrize("cut", range(1, 120, 7))
def test_a_torn_last_line_is_set_aside_and_the_chain_goes_on(path: Path, cut: int) -> None:
    events = filled(path)
    path.write_bytes(path.read_bytes()[:-cut])
    assert journal.read(path) == events[:3]
    with Journal(path) as opened:
        assert opened.torn > 0
        opened.append("confirming", wave=9)
    assert [event["wave"] for event in journal.read(path)] == [0, 1, 2, 9]
    assert path.with_suffix(".torn").exists()


def test_a_block_that_was_never_written_is_torn_too(path: Path) -> None:
    events = filled(path)
    with open(path, "ab") as file:
        file.write(b"\0" * 300)
    assert journal.read(path) == events
    filled(path, 1)
    assert len(journal.read(path)) == 5


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda lines: [lines[0], lines[2], lines[3], b""], "line 2 does not follow the line before it"),
        (lambda lines: [lines[0], lines[1].replace(b'"wave":1', b'"wave":7'), *lines[2:]], "line 2 was changed"),
        (lambda lines: [lines[0], b"garbage", *lines[2:]], "line 2 is no event"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], "line 1 does not follow"),
        (lambda lines: [*lines[:3], lines[3].replace(b'"wave":3', b'"wave":7'), b""], "line 4 was changed"),
    ],
)
def test_a_broken_chain_is_refused_naming_the_line(path: Path, spoil: object, says: str) -> None:
    filled(path)
    path.write_bytes(b"\n".join(spoil(path.read_bytes().split(b"\n"))))  # type: ignore[operator]
    for use in (journal.read, Journal):
        with pytest.raises(ControlError) as caught:
            use(path)
        assert caught.value.code == "journal_broken"
        assert says in caught.value.message


def test_a_renumbered_line_is_refused(path: Path) -> None:
    filled(path, 1)
    event = json.loads(path.read_text())
    event["seq"] = 2
    event["sha256"] = journal.digest(event)
    path.write_bytes(journal.canonical(event) + b"\n")
    with pytest.raises(ControlError, match="line 1 has number 2"):
        journal.read(path)


def test_of_two_writers_the_one_that_is_behind_stops(path: Path) -> None:
    with Journal(path) as first, Journal(path) as second:
        first.append("confirming", wave=1)
        with pytest.raises(ControlError) as caught:
            second.append("confirming", wave=2)
        assert caught.value.code == "journal_moved"
    assert len(journal.read(path)) == 1


def test_a_full_disk_leaves_nothing_of_the_event(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write

    def full(fd: int, data: bytes) -> int:
        write(fd, data[:20])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal(path) as opened:
        opened.append("confirming", wave=1)
        monkeypatch.setattr("os.write", full)
        with pytest.raises(ControlError, match="No space left on device: what is not in the journal is not done"):
            opened.append("confirming", wave=2)
        monkeypatch.undo()
        assert len(journal.read(path)) == 1
        opened.append("confirming", wave=3)
    assert [event["wave"] for event in journal.read(path)] == [1, 3]


def test_a_missing_journal_is_one_line(path: Path) -> None:
    with pytest.raises(ControlError, match="`ktls history` lists the runs"):
        journal.read(path)
