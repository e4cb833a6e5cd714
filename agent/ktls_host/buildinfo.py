# SPDX-License-Identifier: Apache-2.0
"""Which commit, and which locked dependencies, a program was made of: for ``--version``, in one line.

A zipapp carries it as a generated module, a wheel as a file, both written by the build from git; a checkout is asked
when somebody wants to know. It is content, decided by the sources alone, so it makes no two builds of them differ.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

#: Name of the file, beside the code that it is about.
FILE = "build_info.json"
#: Beside the sources in an export of a checkout, for what is built there: what the checkout was.
TOLD = "made_of.json"
#: What a release is made of; whatever else differs from the commit is no matter.
INPUTS = (
    "agent", "control", "galaxy.yml", "lab", "library", "meta", "playbooks", "plugins", "pyproject.toml",
    "requirements", "roles", "setup.py",
)  # fmt: skip
_GIT_S = 20.0


@dataclass(frozen=True)
class BuildInfo:
    """``commit`` is None where nobody knows it. ``dirty``: the sources are not those of the commit.

    ``lock`` is the SHA-256 of the lock file that the dependencies come from, ``lock_name`` what that file is called.
    """

    version: str
    commit: str | None = None
    dirty: bool = False
    lock: str | None = None
    lock_name: str = "control.lock"

    def words(self, program: str) -> str:
        """Return what ``PROGRAM --version`` prints."""
        known = f"commit {self.commit}" if self.commit else "commit unknown"
        changed = ", changed since" if self.dirty and self.commit else ""
        lock = f"sha256:{self.lock[:12]}" if self.lock else "unknown"
        return f"{program} {self.version} ({known}{changed}; {self.lock_name} {lock})"

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "version": self.version,
            "commit": self.commit,
            "dirty": self.dirty,
            "lock": self.lock,
            "lock_name": self.lock_name,
        }

    def text(self) -> str:
        """Return the content of :data:`FILE`: the same for the same build."""
        return json.dumps(self.as_dict(), indent=1, sort_keys=True) + "\n"


def of_host() -> BuildInfo:
    """Return what the programs of a host were made of: the zipapp's word, else that of the checkout."""
    try:
        import ktls_release_meta as meta  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        here = Path(__file__).resolve()
        found = of_file(here.parent / FILE)
        return found if found else of_tree(here.parents[2], "host.lock", ("agent", "requirements/host.lock"))
    return of_meta(vars(meta))


def of_meta(meta: Mapping[str, Any]) -> BuildInfo:
    """Return what the generated module of a zipapp says; one of an older release knows its version alone. Pure."""
    commit, lock = meta.get("COMMIT"), meta.get("LOCK")
    return BuildInfo(str(meta["VERSION"]), commit, bool(meta.get("DIRTY")), lock, "host.lock")


def of_file(path: Path) -> BuildInfo | None:
    """Return what a build wrote beside the code; None when there is no such file, or none of ours."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return BuildInfo(
            str(found["version"]), found["commit"], bool(found["dirty"]), found["lock"], str(found["lock_name"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def of_tree(root: Path, lock_name: str, inputs: Sequence[str] = INPUTS) -> BuildInfo:
    """Return what a checkout says of itself, or an export of one; all of it may be unknown. Starts git twice."""
    told = of_file(root / TOLD)
    if told is not None:
        return replace(told, lock=_sha256(root / "requirements" / lock_name), lock_name=lock_name)
    commit = git(root, "rev-parse", "--short=12", "HEAD")
    changed = git(root, "status", "--porcelain", "--untracked-files=all", "--", *inputs) if commit else None
    return BuildInfo(
        version=_version(root), commit=commit, dirty=changed != "", lock=_sha256(root / "requirements" / lock_name),
        lock_name=lock_name,
    )  # fmt: skip


def git(root: Path, *arguments: str) -> str | None:
    """Return what git says of the checkout at ``root``; None when that is none, or there is no git."""
    if not (root / ".git").exists():
        return None  # an unpacked archive inside some other repository is not that repository
    command = ["git", "-c", f"safe.directory={root}", "-C", str(root), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_GIT_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _version(root: Path) -> str:
    try:
        found = re.search(r'^version = "([^"]+)"', (root / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found.group(1) if found else "0+source"


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
