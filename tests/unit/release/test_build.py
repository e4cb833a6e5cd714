# SPDX-License-Identifier: Apache-2.0
"""The build: same sources, same bytes; another content, another version; and the result runs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT, build

Artefacts = dict[str, dict[str, Any]]


def test_two_builds_give_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    other = tmp_path / "elsewhere"
    shutil.copytree(tree, other)
    for path in other.rglob("*.py"):
        path.touch()
    (other / "agent/ktls_agent/__pycache__").mkdir()
    (other / "agent/ktls_agent/__pycache__/cli.cpython-311.pyc").write_bytes(b"x")
    first = build.build(tree, tmp_path / "1.pyz")
    second = build.build(other, tmp_path / "2.pyz")
    assert first["sha256"] == second["sha256"]
    assert (tmp_path / "1.pyz").read_bytes() == (tmp_path / "2.pyz").read_bytes()
    with zipfile.ZipFile(tmp_path / "1.pyz") as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert not [name for name in names if name.endswith(".pyc")]
        for needed in ("ktls_host/release.py", "ktls_agent/cli.py", "h11/__init__.py", "share/ktls-off", "meta.json"):
            assert needed in names
        assert "share/licenses/h11/LICENSE.txt" in names


def test_versions_follow_the_content(tree: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(tree, work)
    outside = build.build(work, tmp_path / "x.pyz")["version"]
    assert "+d" in outside, "no repository: the content names the version"

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@test.internal", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(work), *identity, *arguments], check=True, capture_output=True)

    git("init", "-q")
    git("add", "-A")
    git("commit", "-q", "-m", "x")
    clean = build.build(work, tmp_path / "x.pyz")
    assert clean["version"].endswith(f"+g{clean['commit']}")
    assert clean["dirty"] is False
    (work / "README.md").write_text("not part of a release")
    assert build.build(work, tmp_path / "x.pyz")["version"] == clean["version"]
    (work / "agent/ktls_agent/new.py").write_text("x = 1\n")
    dirty = build.build(work, tmp_path / "x.pyz")["version"]
    assert dirty.startswith(f"{clean['version']}.d")
    (work / "agent/ktls_agent/new.py").write_text("x = 2\n")
    assert build.build(work, tmp_path / "x.pyz")["version"] not in (dirty, clean["version"])


def test_artefact_runs_by_its_names(artefacts: Artefacts, tmp_path: Path) -> None:
    path = artefacts["1.0"]["path"]
    done = subprocess.run([path, "version"], capture_output=True, text=True, check=True, env={})
    meta = json.loads(done.stdout)
    assert meta["version"] == "1.0"
    assert meta["files"]["ktls_agent/cli.py"] == artefacts["1.0"]["files"]["ktls_agent/cli.py"]
    for name in ("ktls-agent", "ktls-sidecar"):
        link = tmp_path / name
        link.symlink_to(path)
        done = subprocess.run([str(link), "--version"], capture_output=True, text=True, check=False, env={})
        assert done.returncode == 0, done.stderr
        assert "1.0" in done.stdout
    shown = subprocess.run([path, "release", path], capture_output=True, text=True, check=True, env={})
    assert json.loads(shown.stdout)["sha256"] == artefacts["1.0"]["sha256"]
    assert subprocess.run([path], capture_output=True, check=False, env={}).returncode == 0
    assert subprocess.run([path, "nonsense"], capture_output=True, check=False, env={}).returncode == 2


def test_artefact_ignores_the_callers_python_path(artefacts: Artefacts, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('hijacked')\n")
    environment = {"PYTHONPATH": str(tmp_path)}
    path = artefacts["1.0"]["path"]
    done = subprocess.run([path, "release", path], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("change", ["missing_package", "unpinned", "other_pin", "bad_version", "no_version"])
def test_what_cannot_be_built_is_one_line(tree: Path, tmp_path: Path, change: str) -> None:
    work = tmp_path / "work"
    shutil.copytree(tree, work)
    lock = work / "requirements/host.lock"
    if change == "missing_package":
        shutil.rmtree(work / "agent/ktls_sidecar")
    if change == "unpinned":
        lock.write_text("")
    if change == "other_pin":
        lock.write_text(lock.read_text().replace("h11==", "h11==9."))
    if change == "no_version":
        (work / "pyproject.toml").write_text("")
    with pytest.raises(build.BuildError) as caught:
        build.build(work, tmp_path / "x.pyz", "../x" if change == "bad_version" else None)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x.pyz").exists()


def test_changed_h11_is_not_shipped(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = build._read

    def read(path: Path) -> bytes:
        content: bytes = real(path)
        return content + b"# changed\n" if path.name == "_events.py" else content

    monkeypatch.setattr(build, "_read", read)
    with pytest.raises(build.BuildError, match=r"h11/_events\.py is not as it was installed"):
        build.vendored(tree / "requirements/host.lock")


def test_command_line_prints_one_object(tmp_path: Path) -> None:
    script = ROOT / "agent/build.py"
    done = subprocess.run(
        [sys.executable, str(script), "--output", str(tmp_path / "k.pyz"), "--version", "9"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["version"] == "9"
    done = subprocess.run(
        [sys.executable, str(script), "--output", "/proc/x/k.pyz"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
