# SPDX-License-Identifier: Apache-2.0
"""What a release is made from: a checkout whose every file is that of its commit."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ktls_host import buildinfo

from . import ReleaseError

#: 1980-01-01, the oldest time that a zip member can have; for a tree without a commit.
_OLDEST = 315532800


@dataclass(frozen=True)
class Sources:
    """``time`` is that of the commit, in Unix seconds: the only time that gets into an artefact."""

    root: Path
    control: buildinfo.BuildInfo
    host: buildinfo.BuildInfo
    time: int

    @property
    def version(self) -> str:
        """That of pyproject.toml."""
        return self.control.version


def of(root: Path, *, allow_dirty: bool = False) -> Sources:
    """Look at the checkout.

    :raises ReleaseError: it is none, or files differ from its commit and that is not allowed.
    """
    control = buildinfo.of_tree(root, "control.lock", (".",))
    host = buildinfo.of_tree(root, "host.lock", (".",))
    if control.commit is None:
        raise ReleaseError(f"{root} is no git checkout, so nothing says which commit this is: clone the repository")
    if control.dirty and not allow_dirty:
        raise ReleaseError(
            f"{root} has files that are not those of commit {control.commit} (git status): commit them, or try it out "
            "with --allow-dirty, which every artefact then says of itself"
        )
    said = buildinfo.git(root, "log", "-1", "--format=%ct")
    return Sources(root, control, host, max(_OLDEST, int(said or 0)))


def export(sources: Sources, target: Path) -> Path:
    """Copy what git knows of, or would, into ``target``: nothing that lies around; modes without the umask.

    The export says what it is, for it is no checkout.

    :raises ReleaseError: git does not answer.
    """
    listed = buildinfo.git(sources.root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    if listed is None:
        raise ReleaseError(f"git does not list the files of {sources.root}")
    for name in sorted(set(listed.split("\0")) - {""}):
        source, copy = sources.root / name, target / name
        if not os.path.lexists(source):
            continue  # removed, and that not committed
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, copy, follow_symlinks=False)
        if not source.is_symlink():
            copy.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
    date = buildinfo.git(sources.root, "log", "-1", "--format=%cs")
    told = {**sources.control.as_dict(), "date": date}
    (target / buildinfo.TOLD).write_text(json.dumps(told, sort_keys=True), encoding="utf-8")
    return target
