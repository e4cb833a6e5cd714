# SPDX-License-Identifier: Apache-2.0
"""The off flag: whatever it is, it is off."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_agent.flags import OffFlags


@pytest.fixture
def flags(tmp_path: Path) -> OffFlags:
    (tmp_path / "run").mkdir()
    (tmp_path / "lib").mkdir()
    return OffFlags(str(tmp_path / "run/off"), str(tmp_path / "lib/off"))


def test_absent(flags: OffFlags) -> None:
    info = flags.read()
    assert (info.flag, info.both, info.age_s, info.reason) == (False, False, None, None)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", None),
        (b"disk on fire\nsecond line", "disk on fire"),
        (b'{"reason": "drill", "by": "x"}', "drill"),
        (b'{"reason": 5}', '{"reason": 5}'),
        (b"\xff\x00\x1b[31mred", "\ufffd [31mred"),
        (b"[" * 5000, "[" * 300),
        (b"\n\n  \n", None),
    ],
)
def test_reason_of_any_content(flags: OffFlags, content: bytes, reason: str | None) -> None:
    Path(flags.run_path).write_bytes(content)
    info = flags.read()
    assert info.flag
    assert info.reason == reason


@given(content=st.binary(max_size=6000))
def test_no_content_breaks_it(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("flag") / "off"
    path.write_bytes(content)
    info = OffFlags(str(path), str(path) + "2").read()
    assert info.flag
    assert info.reason is None or (info.reason.isprintable() and len(info.reason) <= 300)


def test_directory_fifo_and_dangling_link_are_flags(flags: OffFlags) -> None:
    path = Path(flags.run_path)
    makers: list[Callable[[], None]] = [path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to("/nowhere")]
    for make in makers:
        make()
        assert flags.read().flag
        flags.write_run("again")
        flags.write_durable("again")
        flags.clear()
        assert not flags.read().flag


def test_write_keeps_the_first_reason_and_never_follows_a_link(flags: OffFlags, tmp_path: Path) -> None:
    flags.write_run("first")
    flags.write_run("second")
    assert flags.read().reason == "first"
    target = tmp_path / "precious"
    Path(flags.durable_path).symlink_to(target)
    flags.write_durable("x")
    assert not target.exists()
    assert flags.read().both


def test_age_is_never_negative(flags: OffFlags) -> None:
    flags.write_run("x")
    os.utime(flags.run_path, (2**33, 2**33))
    assert flags.read().age_s == 0.0


def test_clear_that_fails_leaves_off(flags: OffFlags) -> None:
    Path(flags.run_path).mkdir()
    (Path(flags.run_path) / "content").touch()
    with pytest.raises(OSError, match="not empty"):
        flags.clear()
    assert flags.read().flag
