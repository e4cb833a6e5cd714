# SPDX-License-Identifier: Apache-2.0
"""Builds that fail say so in one line and leave nothing; a build that works is kept. The tools are stand-ins."""

from __future__ import annotations

import collections
import os
from pathlib import Path

import pytest

from ktls_lab import apt, build, images, tools
from ktls_lab.cli import main
from ktls_lab.errors import LabError

GOOD_DEBOOTSTRAP = """
for tree; do case "$tree" in */tree) break;; esac; done
mkdir -p "$tree/boot" "$tree/var/lib/dpkg" "$tree/etc/machine"
echo kernel > "$tree/boot/vmlinuz-6.12.1"; echo initrd > "$tree/boot/initrd.img-6.12.1"
echo status > "$tree/var/lib/dpkg/status"
"""


@pytest.fixture
def stand_ins(tmp_path: Path, labs: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory of scripts that PATH has first: mmdebstrap, mke2fs, qemu-img."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(apt, "options", list)
    monkeypatch.setattr(tools, "KEYRING", "/dev/null")
    stand_in(directory, "mmdebstrap", GOOD_DEBOOTSTRAP)
    stand_in(directory, "mke2fs", 'for word; do case "$word" in *.raw) echo disk > "$word";; esac; done')
    stand_in(directory, "qemu-img", 'for last; do :; done; echo qcow2 > "$last"')
    return directory


def stand_in(directory: Path, name: str, script: str) -> None:
    (directory / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (directory / name).chmod(0o755)


def failure() -> str:
    with pytest.raises(LabError) as caught:
        build.ensure(images.load("debian13"), lambda _line: None)
    words = str(caught.value)
    assert "\n" not in words
    place = build.locate(images.load("debian13")).directory
    assert not place.exists()
    assert not list(place.parent.glob(".*.tmp")), "a half-made image was left"
    return words


def test_a_good_build_is_kept_and_used_again(stand_ins: Path) -> None:
    said: list[str] = []
    built = build.ensure(images.load("debian13"), said.append)
    assert sorted(path.name for path in built.directory.iterdir()) == [
        "base.qcow2", "build.log", "dpkg-status", "image.json", "initrd.img", "vmlinuz",
    ]  # fmt: skip
    assert built.kernel.read_text(encoding="ascii") == "kernel\n"
    assert "kernel 6.12.1" in said[-1]
    stand_in(stand_ins, "mmdebstrap", "exit 9")
    assert build.ensure(images.load("debian13"), said.append).directory == built.directory


def test_a_failed_build_shows_the_end_of_its_log(stand_ins: Path) -> None:
    stand_in(stand_ins, "mmdebstrap", "echo one; echo 'E: Unable to locate package nope' >&2; exit 25")
    words = failure()
    assert "mmdebstrap failed with exit status 25" in words
    assert "one | E: Unable to locate package nope" in words
    log = Path(words.rpartition("(log: ")[2].rstrip(")"))
    assert "Unable to locate package nope" in log.read_text(encoding="utf-8")


@pytest.mark.parametrize("tool", ["mmdebstrap", "mke2fs", "qemu-img"])
def test_a_disk_that_fills_up_during_the_build(stand_ins: Path, tool: str) -> None:
    stand_in(stand_ins, tool, "echo 'write failed: No space left on device' >&2; exit 1")
    words = failure()
    assert words.startswith("cannot build image debian13: disk full in ")
    assert words.endswith("free some space or set KTLS_CACHE_DIR to another disk")


def test_a_disk_that_is_full_before_the_build(stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage(10, 9, 1))
    stand_in(stand_ins, "mmdebstrap", "exit 9")
    assert "disk full" in failure()


def test_a_tree_without_a_kernel(stand_ins: Path) -> None:
    stand_in(stand_ins, "mmdebstrap", GOOD_DEBOOTSTRAP + 'rm "$tree"/boot/vmlinuz*')
    assert "0 files boot/vmlinuz-*" in failure()


def test_missing_tools_are_named_with_the_command(
    stand_ins: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = tools.find
    monkeypatch.setattr(tools, "find", lambda tool: None if tool in {"mmdebstrap", "mke2fs"} else real(tool))
    monkeypatch.setattr(tools, "KEYRING", "/nonexistent")
    assert main(["build"]) == 1
    assert capsys.readouterr().err == (
        "ktls lab: missing on this machine: run 'apt-get install --no-install-recommends "
        "debian-archive-keyring e2fsprogs mmdebstrap'\n"
    )


def test_building_needs_root(stand_ins: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert "needs root" in failure()
