# SPDX-License-Identifier: Apache-2.0
"""A control node as a stranger has it: a virtual environment with what was asked for, and nothing of this checkout.

Made of links to the distributions that are installed here, so that it takes no network and no minute.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import venv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


@dataclass(frozen=True)
class CleanRoom:
    """A directory with a virtual environment, and a home that holds nothing else."""

    directory: Path

    @property
    def python(self) -> Path:
        """The environment's Python."""
        return self.directory / "venv" / "bin" / "python"

    @property
    def site(self) -> Path:
        """Where the environment's packages are."""
        return next((self.directory / "venv" / "lib").glob("python3.*")) / "site-packages"

    @property
    def home(self) -> Path:
        """The operator's home directory."""
        return self.directory / "home"

    def environment(self, **more: str) -> dict[str, str]:
        """Environment variables of a fresh login, and nothing of this process's."""
        path = f"{self.python.parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        return {"PATH": path, "HOME": str(self.home), "LC_ALL": "C.UTF-8", "ANSIBLE_NOCOLOR": "1", **more}

    def run(self, program: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment, in the home directory."""
        return subprocess.run(
            [str(self.python.with_name(program)), *arguments],
            capture_output=True,
            text=True,
            cwd=self.home,
            env=self.environment(**more),
            timeout=600,
            check=False,
        )


def make(directory: Path, distributions: Iterable[str]) -> CleanRoom:
    """A clean room with these distributions and no other; see :func:`closure`."""
    room = CleanRoom(directory)
    room.home.mkdir(parents=True)
    venv.create(directory / "venv", with_pip=False, symlinks=True)
    for name in distributions:
        _lend(room, importlib.metadata.distribution(name))
    return room


def names(requirements: Path) -> list[str]:
    """The distributions that a file of requirements, or a lock, asks for on this machine."""
    lines = re.findall(r"^([A-Za-z0-9][^\\\n]*)", requirements.read_text(), re.MULTILINE)
    wanted = [Requirement(line.strip()) for line in lines]
    return [one.name for one in wanted if one.marker is None or one.marker.evaluate()]


def closure(wanted: Iterable[str]) -> list[str]:
    """These distributions, and all that they require in turn."""
    found: dict[str, None] = {}
    left = [canonicalize_name(name) for name in wanted]
    while left:
        name = left.pop()
        if name not in found:
            found[name] = None
            needed = [Requirement(text) for text in importlib.metadata.distribution(name).requires or ()]
            left += [
                canonicalize_name(one.name)
                for one in needed
                if one.marker is None or one.marker.evaluate({"extra": ""})
            ]
    return sorted(found)


def _lend(room: CleanRoom, distribution: importlib.metadata.Distribution) -> None:
    for top in sorted({file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}):
        place = room.site / top
        if not place.exists():
            place.symlink_to(str(distribution.locate_file(top)))
    for script in distribution.entry_points.select(group="console_scripts"):
        path = room.python.with_name(script.name)
        module, _, function = script.value.partition(":")
        path.write_text(f"#!{room.python}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n")
        os.chmod(path, 0o755)
