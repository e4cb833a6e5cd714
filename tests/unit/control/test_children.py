# SPDX-License-Identifier: Apache-2.0
"""Real processes, read and ended by one thread."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktls_control.children import Child, Children


class Seen:
    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.ended: list[Child] = []
        self.children = Children(lambda child, line: self.lines.append((child.name, line)), self.ended.append)

    def until_all_ended(self, limit_s: float = 10.0) -> None:
        deadline = time.monotonic() + limit_s
        while len(self.children) and time.monotonic() < deadline:
            self.children.step(0.2)
        assert len(self.children) == 0


@pytest.fixture
def seen() -> Iterator[Seen]:
    each = Seen()
    with each.children:
        yield each


def soon(seconds: float = 10.0) -> float:
    return time.monotonic() + seconds


def handles() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_lines_errors_and_status(seen: Seen) -> None:
    before = handles()
    child = seen.children.start("a", ["sh", "-c", "echo one; echo two >&2; printf half; exit 3"], soon())
    seen.until_all_ended()
    assert seen.lines == [("a", "one")], "a line that did not end is none"
    assert (child.status, child.stderr, child.timed_out) == (3, "two\n", False)
    assert seen.ended == [child]
    assert handles() == before


def test_it_reads_what_is_written_and_the_file_that_it_is_given(seen: Seen, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from a file\n")
    with open(tmp_path / "in") as file:
        seen.children.start("file", ["cat"], soon(), file.fileno())
    pipe = seen.children.start("pipe", ["sh", "-c", 'read -r line; echo "$line"'], soon())
    assert seen.children.write(pipe, b"from a pipe\n")
    seen.until_all_ended()
    assert sorted(seen.lines) == [("file", "from a file"), ("pipe", "from a pipe")]
    assert not seen.children.write(pipe, b"x\n")


def test_one_that_hangs_is_ended_with_all_it_started(seen: Seen) -> None:
    began = time.monotonic()
    child = seen.children.start("a", ["sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait"], soon(0.4))
    seen.until_all_ended()
    assert child.timed_out
    assert time.monotonic() - began < 5
    grandchild = int(seen.lines[0][1])
    state = Path(f"/proc/{grandchild}/stat")
    deadline = time.monotonic() + 3
    while state.exists() and " Z " not in state.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not state.exists() or " Z " in state.read_text()


def test_a_deadline_can_be_moved_and_lifted(seen: Seen) -> None:
    child = seen.children.start("a", ["sleep", "0.6"], soon(0.2))
    seen.children.set_deadline(child, float("inf"))
    seen.until_all_ended()
    assert (child.status, child.timed_out) == (0, False)


def test_stop_is_no_timeout(seen: Seen) -> None:
    child = seen.children.start("a", ["sleep", "60"], soon())
    seen.children.stop(child)
    seen.until_all_ended()
    assert (child.status, child.timed_out) == (-15, False)


def test_a_pipe_that_somebody_else_keeps_open_is_given_up(seen: Seen) -> None:
    child = seen.children.start("a", ["setsid", "-f", "sleep", "20"], soon(0.5))
    seen.until_all_ended(3.0)
    assert child.timed_out


def test_a_flood_without_a_line_ends_it(seen: Seen) -> None:
    seen.children.start("a", ["sh", "-c", "exec cat /dev/zero"], soon(20))
    seen.until_all_ended()
    assert seen.lines == []


def test_a_program_that_is_not_there(seen: Seen) -> None:
    before = handles()
    with pytest.raises(OSError, match="No such file"):
        seen.children.start("a", ["/nowhere/ssh"], soon())
    assert (handles(), len(seen.children)) == (before, 0)


def test_none_is_left_at_the_end() -> None:
    each = Seen()
    with each.children:
        child = each.children.start("a", ["sleep", "60"], soon())
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)
