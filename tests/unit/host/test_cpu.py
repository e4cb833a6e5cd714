# SPDX-License-Identifier: Apache-2.0
"""CPUs of a host and how much of them is in use; what cannot be read is not known."""

from __future__ import annotations

from pathlib import Path

import pytest

from ktls_host import cpu

#: Of a lab VM with two CPUs (Debian 13).
STAT = """cpu  4705 150 1120 16250 520 0 30 100 0 0
cpu0 2352 75 560 8125 260 0 15 50 0 0
cpu1 2353 75 560 8125 260 0 15 50 0 0
intr 114930548 113199788 3 0 5
ctxt 1990473
"""


def root(tmp_path: Path, text: str) -> str:
    (tmp_path / "proc").mkdir(exist_ok=True)
    (tmp_path / "proc/stat").write_text(text)
    return str(tmp_path)


def test_a_host_that_works(tmp_path: Path) -> None:
    place = root(tmp_path, STAT)
    # 40 ticks more: 30 of work, 8 idle, 2 waiting for a disk.
    later = STAT.replace("cpu  4705 150 1120 16250 520", "cpu  4725 150 1130 16258 522")

    def work(_seconds: float) -> None:
        root(tmp_path, later)

    assert cpu.probe(place, wait=work) == {"online": 2, "busy": 0.75}


def test_a_host_that_says_nothing(tmp_path: Path) -> None:
    assert cpu.probe(str(tmp_path), wait=lambda _s: pytest.fail("waited for nothing")) == {"online": None, "busy": None}
    assert cpu.probe(root(tmp_path, "cpu x\n"), wait=lambda _s: None) == {"online": None, "busy": None}
    assert cpu.probe(root(tmp_path, STAT), wait=lambda _s: None) == {"online": 2, "busy": None}


def test_time_that_ran_backwards_is_bounded() -> None:
    assert cpu.busy([0, 0, 0, 0, 10, 0, 0, 0], [20, 0, 0, 0, 5, 0, 0, 0]) == 1.0
    assert cpu.busy([0] * 8, None) is None


def test_this_machine() -> None:
    found = cpu.probe()
    assert found["online"] >= 1 and 0 <= found["busy"] <= 1
