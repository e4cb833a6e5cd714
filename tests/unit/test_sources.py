# SPDX-License-Identifier: Apache-2.0
"""What a checkout has is the same by git and without it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests import sources


def test_without_git_it_is_what_is_there(tmp_path: Path) -> None:
    for name in ("a/b.py", "build/x", "a/__pycache__/b.pyc", ".venv/y", "c.pyc", ".gitignore"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("/.venv/\n/build/\n__pycache__/\n*.pyc\n")
    (tmp_path / "link").symlink_to("a")
    without = sources.names(tmp_path)
    assert without == [".gitignore", "a/b.py", "link"]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    assert sorted(sources.names(tmp_path)) == without
