# SPDX-License-Identifier: Apache-2.0
"""Which files a checkout has: by git, and where git does not say (an unpacked archive), by what is there."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

#: What .gitignore leaves out.
_LEFT_OUT = frozenset(
    (".git", ".venv", ".cache", "build", "__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis",
     ".ansible")
)  # fmt: skip


def names(root: Path) -> list[str]:
    """Paths of files and links below ``root``, committed or not, without what git ignores."""
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root), "ls-files", "-z"]
    done = subprocess.run([*command, "--cached", "--others", "--exclude-standard"], capture_output=True, check=False)
    if done.returncode == 0 and done.stdout:
        listed = [name for name in done.stdout.decode().split("\0") if name]
        return [name for name in listed if os.path.lexists(root / name)]
    return sorted(_walk(root))


def _walk(root: Path) -> list[str]:
    found: list[str] = []
    for place, directories, files in os.walk(root):
        here = Path(place)
        links = [name for name in directories if (here / name).is_symlink()]
        directories[:] = [
            name
            for name in directories
            if name not in _LEFT_OUT and name not in links and not name.endswith(".egg-info")
        ]
        wanted = [*links, *(name for name in files if not name.endswith(".pyc"))]
        found += [str((here / name).relative_to(root)) for name in wanted if name not in _LEFT_OUT]
    return found
