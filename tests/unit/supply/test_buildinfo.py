# SPDX-License-Identifier: Apache-2.0
"""``--version`` names commit and lock: from a checkout, an export, a zipapp; elsewhere it says unknown."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ktls_control import build as control_build
from ktls_host import buildinfo
from tests.unit.release.conftest import build

ROOT = Path(__file__).resolve().parents[3]
Git = Callable[..., str]


@pytest.fixture
def checkout(tmp_path: Path) -> tuple[Path, Git]:
    """A small repository of the form that matters."""
    root = tmp_path / "checkout"
    for name in ("requirements/control.lock", "requirements/host.lock", "pyproject.toml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    shutil.copytree(ROOT / "agent", root / "agent", ignore=shutil.ignore_patterns("__pycache__"))

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@test.internal", "-c", "commit.gpgsign=false"]
        command = ["git", "-C", str(root), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "x")
    return root, git


def test_checkout(checkout: tuple[Path, Git]) -> None:
    root, git = checkout
    found = buildinfo.of_tree(root, "control.lock")
    lock = hashlib.sha256((root / "requirements/control.lock").read_bytes()).hexdigest()
    commit = git("rev-parse", "--short=12", "HEAD")
    assert found == buildinfo.BuildInfo("0.1.0", commit, False, lock, "control.lock")
    assert found.words("ktls") == f"ktls 0.1.0 (commit {commit}; control.lock sha256:{lock[:12]})"
    (root / "README.md").write_text("no matter")
    assert not buildinfo.of_tree(root, "control.lock").dirty
    (root / "agent/new.py").write_text("")
    assert f"commit {commit}, changed since;" in buildinfo.of_tree(root, "control.lock").words("ktls")


def test_export_is_what_the_checkout_was(checkout: tuple[Path, Git], tmp_path: Path) -> None:
    root, _ = checkout
    told = buildinfo.of_tree(root, "control.lock")
    export = tmp_path / "export"
    shutil.copytree(root, export, ignore=shutil.ignore_patterns(".git"))
    assert buildinfo.of_tree(export, "control.lock").commit is None
    assert "commit unknown" in buildinfo.of_tree(export, "control.lock").words("ktls")
    (export / buildinfo.TOLD).write_text(told.text())
    assert buildinfo.of_tree(export, "control.lock") == told
    one = build.build(root, tmp_path / "1.pyz")
    two = build.build(export, tmp_path / "2.pyz")
    assert one["sha256"] == two["sha256"], "the commit is content, and nothing else of where it was built"


def test_zipapp_says_it_by_every_name(checkout: tuple[Path, Git], tmp_path: Path) -> None:
    root, git = checkout
    built = build.build(root, tmp_path / "ktls.pyz")
    commit = git("rev-parse", "--short=12", "HEAD")
    lock = hashlib.sha256((root / "requirements/host.lock").read_bytes()).hexdigest()
    for name in ("ktls-agent", "ktls-sidecar", "ktls-publish", "ktls-sentinel"):
        (tmp_path / name).symlink_to("ktls.pyz")
        done = subprocess.run([str(tmp_path / name), "--version"], capture_output=True, text=True, check=True, env={})
        said = f"{name} {built['version']} (commit {commit}; host.lock sha256:{lock[:12]})\n"
        assert done.stdout == said
    (root / "agent/ktls_agent/new.py").write_text("x = 1\n")
    build.build(root, tmp_path / "ktls.pyz")
    command = [str(tmp_path / "ktls-agent"), "--version"]
    assert ", changed since;" in subprocess.run(command, capture_output=True, text=True, check=True, env={}).stdout


def test_programs_from_this_checkout() -> None:
    here = buildinfo.git(ROOT, "rev-parse", "--short=12", "HEAD")
    for part in ("agent", "sidecar", "sentinel"):
        command = [sys.executable, str(ROOT / "agent/zipapp_main.py"), part, "--version"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.startswith(f"ktls-{part} 0.1.0 (commit {here}")
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ktls")), "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith(f"ktls 0.1.0 (commit {here}")
    assert "control.lock sha256:" in done.stdout


def test_wheel_is_believed_before_anything_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = buildinfo.BuildInfo("9.9", "c" * 12, False, "d" * 64, "control.lock")
    (tmp_path / buildinfo.FILE).write_text(told.text())
    monkeypatch.setattr(control_build, "__file__", str(tmp_path / "build.py"))
    assert control_build.info() == told


def test_unknown_is_said_and_damage_is_no_traceback(tmp_path: Path) -> None:
    nothing = buildinfo.of_tree(tmp_path, "control.lock")
    assert nothing.words("ktls") == "ktls 0+source (commit unknown; control.lock unknown)"
    for text in ("{", "[]", json.dumps({"version": "1"})):
        (tmp_path / buildinfo.FILE).write_text(text)
        assert buildinfo.of_file(tmp_path / buildinfo.FILE) is None
    assert buildinfo.of_meta({"VERSION": "1.0"}).words("ktls-agent") == (
        "ktls-agent 1.0 (commit unknown; host.lock unknown)"
    )
