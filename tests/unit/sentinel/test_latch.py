# SPDX-License-Identifier: Apache-2.0
"""The latch: what was found stays found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ktls_host.errors import KtlsError
from ktls_sentinel.latch import MAX_LEAKS, Latch
from ktls_sentinel.watch import Leak

LEAK = Leak(1000.5, "192.0.2.1:8443", "192.0.2.9:40000", 7)


def other(index: int) -> Leak:
    return Leak(2000.0 + index, f"192.0.2.{index}:8443", "192.0.2.9:40000", index)


def test_a_leak_is_there_after_a_restart_and_until_it_is_cleared(tmp_path: Path) -> None:
    latch = Latch(str(tmp_path))
    assert (latch.leaks(), latch.problem, latch.handled) == ([], None, True)
    assert latch.record(LEAK) is True
    assert latch.record(Leak(1001.0, LEAK.src, LEAK.dst, 8)) is False
    again = Latch(str(tmp_path))
    assert (again.leaks(), again.handled) == ([LEAK], False)
    again.handle()
    assert Latch(str(tmp_path)).handled
    assert again.clear() == 1
    assert Latch(str(tmp_path)).leaks() == []
    assert again.record(LEAK) is True, "after a clear it is the first again"


def test_one_for_each_source_and_not_without_end(tmp_path: Path) -> None:
    latch = Latch(str(tmp_path))
    for index in range(MAX_LEAKS + 5):
        latch.record(other(index))
        latch.record(other(index))
    assert latch.leaks() == [other(index) for index in range(MAX_LEAKS)]
    assert latch.frames == 2 * (MAX_LEAKS + 5)
    assert Latch(str(tmp_path)).leaks() == latch.leaks()


def test_a_disk_that_cannot_be_written_is_told_and_tried_again(tmp_path: Path) -> None:
    gone = tmp_path / "state"
    latch = Latch(str(gone))
    assert latch.record(LEAK) is True
    assert latch.leaks() == [LEAK]
    assert "cannot write" in str(latch.problem)
    gone.mkdir()
    latch.settle()
    assert latch.problem is None
    assert Latch(str(gone)).leaks() == [LEAK]


def test_clear_that_cannot_be_written_clears_nothing(tmp_path: Path) -> None:
    latch = Latch(str(tmp_path))
    latch.record(LEAK)
    (tmp_path / "leaks.json").unlink()
    (tmp_path / "leaks.json").symlink_to("/nowhere")
    with pytest.raises(KtlsError, match="not cleared") as caught:
        latch.clear()
    assert caught.value.code == "write_failed"
    assert latch.leaks() == [LEAK]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"leaks": [{}], "handled": true}', '{"leaks": 7, "handled": true}', "[" * 60_000, "\0"],
)
def test_a_damaged_file_is_never_taken_for_clean(tmp_path: Path, text: str) -> None:
    path = tmp_path / "leaks.json"
    path.write_text(text)
    latch = Latch(str(tmp_path))
    assert "is damaged, so earlier leaks are not known" in str(latch.problem)
    assert latch.record(LEAK) is True
    assert "is damaged" in str(latch.problem), "a new leak does not make the old ones known"
    latch.clear()
    assert latch.problem is None
    assert json.loads(path.read_text())["leaks"] == []


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "leaks.json").mkdir()
    assert "cannot be read" in str(Latch(str(tmp_path)).problem)
