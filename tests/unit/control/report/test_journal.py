# SPDX-License-Identifier: Apache-2.0
"""Reading a journal that is being written, and one that somebody changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ktls_control.errors import ControlError
from ktls_control.rollout import journal as engine
from ktls_control.rollout.store import Run
from ktls_control.view.journal import Reader, load

from .conftest import Stories


def test_a_whole_journal(stories: Stories) -> None:
    reader = load(stories("failed").run_dir / "journal.jsonl")
    assert reader.broken is None
    assert not reader.torn
    assert reader.events == stories("failed").journal.lines


def test_the_engine_reads_what_the_generator_writes(stories: Stories) -> None:
    """Else these tests would be about journals that no engine writes."""
    for name in ("completed", "failed", "soaking"):
        assert engine.read(stories(name).run_dir / "journal.jsonl")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda lines: [*lines[:4], lines[4].replace(b'"wave":1', b'"wave":2'), *lines[5:]], "line 5 was changed"),
        (lambda lines: [*lines[:4], *lines[5:]], "line 5 does not follow"),
        (lambda lines: [*lines[:4], lines[5], lines[4], *lines[6:]], "line 5 does not follow"),
        (lambda lines: [*lines[:4], b"{", *lines[4:]], "line 5 is no event"),
        (lambda lines: [*lines[:4], b'{"at": "x", "event": "y"}', *lines[4:]], "line 5 is no event"),
        (lambda lines: [*lines[:4], b'{"at": NaN, "event": "y"}', *lines[4:]], "line 5 does not follow"),
        (lambda lines: lines[1:], "line 1 does not follow"),
    ],
)
def test_a_change_is_said_and_where(
    run_of: Callable[[str], Run], change: Callable[[list[bytes]], list[bytes]], says: str
) -> None:
    run = run_of("failed")
    run.journal.write_bytes(b"\n".join(change(run.journal.read_bytes().splitlines())) + b"\n")
    reader = load(run.journal)
    assert reader.broken is not None
    assert says in reader.broken
    # What follows is still there to be looked at.
    assert len(reader.events) > 50


def test_it_is_read_as_it_grows(stories: Stories, tmp_path: Path) -> None:
    text = (stories("completed").run_dir / "journal.jsonl").read_bytes()
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"")
    reader, found = Reader(path), []
    for end in range(0, len(text) + 700, 700):
        path.write_bytes(text[:end])
        found += reader.read()
        assert reader.torn == (not text[:end].endswith(b"\n") and end > 0)
    assert found == stories("completed").journal.lines
    assert reader.broken is None


def test_no_journal_and_an_empty_one(tmp_path: Path) -> None:
    for text in (None, "", '{"half'):
        if text is not None:
            (tmp_path / "journal.jsonl").write_text(text)
        with pytest.raises(ControlError) as caught:
            load(tmp_path / "journal.jsonl")
        assert caught.value.code == "no_journal"
