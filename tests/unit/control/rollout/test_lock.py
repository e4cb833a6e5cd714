# SPDX-License-Identifier: Apache-2.0
"""One holder at a time, named, gone with its process; and epochs that only grow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ktls_control.errors import ControlError
from ktls_control.rollout import lock


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Stands for ``ansible-playbook``."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as started:
        yield started
        started.kill()


def test_a_second_operator_is_told_who_holds_it(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    path = tmp_path / "fleet" / "lock"
    lock.take(path, operator="ada@control1", run="r1", pid=process.pid)
    assert lock.held(path)
    with pytest.raises(ControlError) as caught:
        lock.take(path, operator="grace@control2", run="r2", pid=os.getpid())
    assert caught.value.code == "locked"
    for part in ("ada@control1", "run r1", f"pid {process.pid}", "since 20"):
        assert part in caught.value.message
    assert lock.said(path)["run"] == "r1"


def test_it_ends_with_its_process_however_that_dies(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    path = tmp_path / "lock"
    lock.take(path, operator="a", run="r1", pid=process.pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    lock.take(path, operator="b", run="r2", pid=os.getpid())
    assert lock.said(path)["operator"] == "b"
    lock.release(path, os.getpid())
    _until_free(path)


def test_only_its_own_process_releases_it(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    path = tmp_path / "lock"
    lock.take(path, operator="a", run="r1", pid=process.pid)
    lock.release(path, os.getpid())
    assert lock.held(path)
    lock.release(path, process.pid)
    _until_free(path)


def test_who_starts_it_is_not_kept_by_it(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    """The lock belongs to a process of its own: the one that took it closes nothing by ending."""
    path = tmp_path / "lock"
    code = (
        "import sys; from pathlib import Path; from ktls_control.rollout import lock; "
        f"lock.take(Path({str(path)!r}), operator='a', run='r', pid={process.pid})"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert lock.held(path)


def test_the_run_is_named_in_place(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    path = tmp_path / "lock"
    lock.take(path, operator="a", run="starting", pid=process.pid)
    lock.name_run(path, "a much longer name than before")
    lock.name_run(path, "r1")
    assert lock.held(path)
    assert (lock.said(path)["run"], lock.said(path)["operator"]) == ("r1", "a")


def test_epochs_only_grow(tmp_path: Path) -> None:
    path = tmp_path / "epoch"
    assert lock.next_epoch(path) == 1
    assert lock.next_epoch(path, 7, 3) == 8
    assert lock.next_epoch(path, 2) == 9
    path.write_text("none\n")
    with pytest.raises(ControlError, match="not a number"):
        lock.next_epoch(path)


def _until_free(path: Path) -> None:
    deadline = time.monotonic() + 5
    while lock.held(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)
