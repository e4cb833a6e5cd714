# SPDX-License-Identifier: Apache-2.0
"""``ktls-off``: it works when little else does."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "agent/units/ktls-off"


def off(root: Path, *arguments: str, shell: str = "/bin/dash") -> subprocess.CompletedProcess[str]:
    # An empty environment but for the prefix: a boot check or a rescue shell has no more.
    environment = {"KTLS_OFF_PREFIX": str(root)}
    return subprocess.run(
        [shell, str(SCRIPT), *arguments], env=environment, capture_output=True, text=True, timeout=10, check=False
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "run/ktls").mkdir(parents=True)
    (tmp_path / "var/lib/ktls").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("shell", ["/bin/dash", "/bin/bash"])
def test_sets_both_flags_with_a_reason_and_says_so_in_one_line(root: Path, shell: str) -> None:
    done = off(root, "disk", "on fire", shell=shell)
    assert done.returncode == 0, done.stderr
    assert (root / "run/ktls/off").read_text() == "disk on fire\n"
    assert (root / "var/lib/ktls/off").read_text() == "disk on fire\n"
    assert done.stdout.count("\n") == 1
    assert "OFF is set" in done.stdout
    assert done.stderr == ""


def test_needs_no_directory_and_repeats(tmp_path: Path) -> None:
    first = off(tmp_path)
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "run/ktls/off").exists()
    assert "a reboot would forget it" in first.stdout
    assert off(tmp_path).returncode == 0


def test_runs_no_python_and_nothing_outside_a_bare_system() -> None:
    used = set(SCRIPT.read_text().replace("(", " ").split())
    assert SCRIPT.read_text().startswith("#!/bin/sh\n")
    assert not used & {"python", "python3", "curl", "ip", "awk", "sed", "mktemp", "sync"}
    assert SCRIPT.stat().st_mode & 0o777 == 0o755


def test_mistyped_option_switches_off_all_the_same(root: Path) -> None:
    done = off(root, "--now", "why")
    assert done.returncode == 0
    assert (root / "run/ktls/off").read_text() == "why\n"
    assert "--now ignored" in done.stderr


def test_status_shows_and_changes_nothing(root: Path) -> None:
    done = off(root, "--status")
    assert done.returncode == 1
    assert done.stdout.count("not set") == 2
    assert not (root / "run/ktls/off").exists()
    (root / "var/lib/ktls/off").symlink_to("nowhere")
    done = off(root, "--status")
    assert done.returncode == 0
    assert "/var/lib/ktls/off: set" in done.stdout


def test_never_writes_through_a_link(root: Path) -> None:
    precious = root / "precious"
    (root / "run/ktls/off").symlink_to(precious)
    assert off(root, "x").returncode == 0
    assert not precious.exists()


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight blocks."""
    mount = tmp_path / "tiny"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32k,nr_inodes=32", "tmpfs", str(mount)], check=True)
    try:
        yield mount
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(mount)], check=False)
        subprocess.run(["umount", str(mount)], check=True)


def fill(directory: Path) -> None:
    with pytest.raises(OSError, match="No space"), (directory / "ballast").open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 512)


def test_full_disk(tiny: Path) -> None:
    (tiny / "run/ktls").mkdir(parents=True)
    (tiny / "var/lib/ktls").mkdir(parents=True)
    fill(tiny)
    done = off(tiny, "a reason that finds no block")
    assert done.returncode == 0, done.stderr
    assert (tiny / "run/ktls/off").exists()
    assert (tiny / "var/lib/ktls/off").exists()
    assert done.stderr == ""


def test_full_or_read_only_durable_disk_does_not_stop_it(tmp_path: Path, tiny: Path) -> None:
    (tmp_path / "run/ktls").mkdir(parents=True)
    (tmp_path / "var/lib").mkdir(parents=True)
    (tiny / "ktls").mkdir()
    (tmp_path / "var/lib/ktls").symlink_to(tiny / "ktls")
    subprocess.run(["mount", "-o", "remount,ro", str(tiny)], check=True)
    done = off(tmp_path, "why")
    assert done.returncode == 0
    assert (tmp_path / "run/ktls/off").exists()
    assert "a reboot would forget it" in done.stdout


def test_fails_only_when_the_acting_flag_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the directory should be")
    done = off(tmp_path)
    assert done.returncode == 1
    assert "FAILED" in done.stderr
    assert "systemctl stop ktls-sidecar" in done.stderr
    assert done.stderr.count("\n") == 1
