# SPDX-License-Identifier: Apache-2.0
"""Ending the right processes: start times, recycled numbers, the sweep by directory."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_lab import process
from ktls_lab.process import ProcessId

STAT = "4711 (qemu) S 1 4711 4711 0 -1 4194304 9 0 0 0 12 3 0 0 20 0 4 0 98765 2500076544 144100 18446744073709551615"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"], stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


def test_start_ticks_of_a_real_stat_line() -> None:
    assert process.start_ticks(STAT) == 98765


@given(st.text(st.characters(codec="utf-8"), max_size=15))
def test_start_ticks_whatever_the_command_is_called(name: str) -> None:
    assert process.start_ticks(STAT.replace("qemu", name)) == 98765


def fake_proc(root: Path, pid: int, stat: str, cmdline: bytes = b"") -> Path:
    (root / str(pid)).mkdir(parents=True)
    (root / str(pid) / "stat").write_text(stat, encoding="utf-8")
    (root / str(pid) / "cmdline").write_bytes(cmdline)
    return root


def test_a_recycled_number_is_another_process(tmp_path: Path) -> None:
    proc = fake_proc(tmp_path, 4711, STAT)
    assert process.is_alive(ProcessId(4711, 98765), proc)
    assert not process.is_alive(ProcessId(4711, 98764), proc)


def test_a_zombie_is_dead(tmp_path: Path) -> None:
    assert process.identify(4711, fake_proc(tmp_path, 4711, STAT.replace(") S", ") Z"))) is None
    assert process.identify(4712, tmp_path) is None


def test_kill_spares_a_process_that_took_over_the_number(sleeper: subprocess.Popen[bytes]) -> None:
    real = process.identify(sleeper.pid)
    assert real is not None
    assert process.kill([ProcessId(real.pid, real.start_ticks - 1)]) == []
    assert sleeper.poll() is None
    assert process.kill([real]) == []
    assert process.identify(sleeper.pid) is None


def test_kill_of_one_that_is_gone() -> None:
    with subprocess.Popen(["true"]) as child:
        child.wait()
    assert process.kill([ProcessId(child.pid, 1)]) == []


def test_the_sweep_finds_only_qemu_of_this_lab(tmp_path: Path) -> None:
    lab = Path("/x/build/lab/one")
    drive = b"if=none,id=disk,file=/x/build/lab/one/web1/disk.qcow2,format=qcow2"
    other = drive.replace(b"/one/", b"/one-more/")
    for pid, words in enumerate(
        [
            (b"qemu-system-x86_64", b"-drive", drive),
            (b"/usr/bin/qemu-system-x86_64", b"-drive", drive),
            (b"qemu-system-x86_64", b"-drive", other),
            (b"tail", b"-f", b"/x/build/lab/one/web1/console.log"),
            (b"vi", drive),
            (b"",),
        ],
        start=100,
    ):
        fake_proc(tmp_path, pid, STAT, b"\0".join(words) + b"\0")
    (tmp_path / "self").symlink_to(str(os.getpid()))
    assert sorted(found.pid for found in process.qemu_using(lab, tmp_path)) == [100, 101]


def test_the_sweep_knows_how_qemu_writes_a_comma(tmp_path: Path) -> None:
    fake_proc(tmp_path, 7, STAT, b"qemu-system-x86_64\0-drive\0if=none,file=/a,,b/one/web1/disk.qcow2\0")
    assert [found.pid for found in process.qemu_using(Path("/a,b/one"), tmp_path)] == [7]
