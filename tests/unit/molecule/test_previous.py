# SPDX-License-Identifier: Apache-2.0
"""Which release the upgrade starts from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.molecule import previous

ROOT = Path(__file__).parents[3]


def git(tree: Path, *arguments: str) -> str:
    options = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", *options, "-C", str(tree), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """This tree's inputs of a release, in no repository."""
    found = tmp_path / "tree"
    for name in ("agent", "requirements"):
        shutil.copytree(ROOT / name, found / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", found)
    return found


def version(path: Path) -> str:
    said = subprocess.run([sys.executable, "-I", str(path), "version"], check=True, capture_output=True, text=True)
    return str(json.loads(said.stdout)["version"])


def test_without_git_it_is_this_tree_with_a_lower_version_and_says_so(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "ktls.pyz"
    found = previous.build(output, tree)
    assert (found["version"], version(output)) == ("0.0.1", "0.0.1")
    assert found["what"].startswith(
        "a stand-in: this tree, built as 0.0.1; the formats of two releases are not compared"
    )


def test_the_newest_release_behind_this_one(tree: Path, tmp_path: Path) -> None:
    git(tree, "init", "-q")
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "first")
    for tag in ("v0.9.0", "v0.10.0", "soon"):
        git(tree, "tag", tag)
    # A tag of this very commit is this release, and none before it.
    assert previous.build(tmp_path / "same.pyz", tree)["version"] == "0.0.1"
    (tree / "agent/ktls_host/new.py").write_text('"""New."""\n')
    git(tree, "add", ".")
    git(tree, "commit", "-q", "-m", "second")
    output = tmp_path / "ktls.pyz"
    found = previous.build(output, tree)
    assert found["what"] == "release v0.10.0"
    assert found["version"] == version(output) == f"0.1.0+g{git(tree, 'rev-parse', '--short=12', 'v0.10.0')}"
    assert b"ktls_host/new.py" not in output.read_bytes()


def test_what_is_given_wins_and_is_not_replaced(tree: Path, tmp_path: Path) -> None:
    output = tmp_path / "ktls.pyz"
    made = tmp_path / "made.pyz"
    previous.build(made, tree)
    assert previous.build(output, tree, str(made))["version"] == "0.0.1"
    with pytest.raises(previous.NoPreviousError, match="nowhere"):
        previous.build(output, tree, "nowhere")


def test_tags_are_sorted_by_number() -> None:
    assert previous.newest_tags("v1.9.0\nv1.10.0\nrc\nv1.2\nv0.1.0") == ["v1.10.0", "v1.9.0", "v0.1.0"]
    assert previous.newest_tags(None) == []
