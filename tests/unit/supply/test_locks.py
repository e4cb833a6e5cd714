# SPDX-License-Identifier: Apache-2.0
"""Everything that is installed is pinned to a hash, by everybody who installs anything here."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import pytest
import tomllib
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools.releasing import lockfile

ROOT = Path(__file__).resolve().parents[3]
LOCKS = {path.stem: lockfile.parse(path.read_text()) for path in (ROOT / "requirements").glob("*.lock")}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def group(name: str) -> list[str]:
    """Requirements of a dependency group, with those of the groups in it (PEP 735)."""
    found: list[str] = []
    for entry in PROJECT["dependency-groups"][name]:
        found += group(entry["include-group"]) if isinstance(entry, dict) else [entry]
    return found


#: What wants each lock: lists of requirements in pyproject.toml.
WANTED = {
    "control": PROJECT["project"]["dependencies"],
    "host": group("host"),
    "dev": [*PROJECT["project"]["dependencies"], *group("dev")],
}


def test_there_is_one_for_each_use() -> None:
    assert set(LOCKS) == set(WANTED)


@pytest.mark.parametrize("name", WANTED)
def test_every_package_has_hashes_and_somebody_who_wants_it(name: str) -> None:
    names = {canonicalize_name(entry.name) for entry in LOCKS[name]} | {"ktls-fleet"}
    for entry in LOCKS[name]:
        assert entry.hashes and len(set(entry.hashes)) == len(entry.hashes)
        assert entry.wanted_by and {canonicalize_name(parent) for parent in entry.wanted_by} <= names, entry.name


@pytest.mark.parametrize("name", WANTED)
def test_lock_satisfies_what_the_project_wants(name: str) -> None:
    for text in WANTED[name]:
        wanted = Requirement(text)
        found = [entry for entry in LOCKS[name] if canonicalize_name(entry.name) == canonicalize_name(wanted.name)]
        assert found, f"{wanted.name} is not locked: run tools/lock"
        assert all(wanted.specifier.contains(entry.version) for entry in found), text


def test_locks_agree_with_each_other() -> None:
    dev = {(entry.name, entry.version, entry.hashes) for entry in LOCKS["dev"]}
    for name in ("control", "host"):
        assert {(entry.name, entry.version, entry.hashes) for entry in LOCKS[name]} <= dev


def test_what_is_installed_here_is_what_is_locked() -> None:
    locked = {(canonicalize_name(entry.name), entry.version) for entry in LOCKS["dev"]}
    # What makes the environment itself, and the project.
    own = {"pip", "setuptools", "ktls-fleet"}
    installed = {
        (canonicalize_name(found.metadata["Name"]), found.version)
        for found in importlib.metadata.distributions()
        if "site-packages" in str(found.locate_file("")) and "ansible_collections" not in str(found.locate_file(""))
    }
    assert {entry for entry in installed if entry[0] not in own} <= locked


@pytest.mark.parametrize("path", ["tools/prepare", "execution-environment.yml", "tools/releasing/make.py"])
def test_whoever_installs_wants_hashes_or_no_index(path: str) -> None:
    text = (ROOT / path).read_text()
    # A command of ours ends where the next statement begins; two lines are one in YAML and in lists.
    calls = re.findall(r"\"?pip\"?[\s\",]+(?:-\S+[\s\",]+)*\"?(?:install|wheel)\b.{0,240}", text, re.DOTALL)
    assert calls, "nothing is installed there any more: take it out of this list"
    for call in calls:
        assert "--require-hashes" in call or "--no-index" in call, call


def test_nobody_else_installs() -> None:
    told = {"tools/prepare", "execution-environment.yml", "tools/releasing/make.py"}
    found = set()
    for pattern in (".ci/*", "tools/*", "tools/*/*.py", "playbooks/*.yml", "roles/*/tasks/*.yml", "Makefile", "*.yml"):
        for path in ROOT.glob(pattern):
            if path.is_file() and re.search(r"\bpip\"?[\s\",-]+.*\b(install|wheel)\b", path.read_text()):
                found.add(path.relative_to(ROOT).as_posix())
    # Says how to get the program that writes the locks.
    assert found - told - {"tools/lock"} == set()


def test_ci_runs_what_prepare_made() -> None:
    assert "exec make test" in (ROOT / ".ci/run").read_text()
    assert re.search(r"^test: prepare\b", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "text",
    [
        "h11==0.16.0\n",
        "h11>=0.16.0 \\\n    --hash=sha256:" + "0" * 64 + "\n",
        "git+https://example.org/x.git\n",
        "h11==0.16.0 \\\n    --hash=md5:00\n",
    ],
)
def test_a_line_without_pin_or_hash_is_refused(text: str) -> None:
    with pytest.raises(lockfile.LockError):
        lockfile.parse(text)


def test_form_of_a_lock() -> None:
    text = (
        "# a comment\na==1 ; sys_platform == 'win32' \\\n    --hash=sha256:" + "0" * 64 + " \\\n    --hash=sha256:"
        "" + "1" * 64 + "\n    # via\n    #   ktls-fleet (pyproject.toml)\n    #   b\nb==2 \\\n    --hash=sha256:"
        "" + "2" * 64 + "\n    # via ktls-fleet (pyproject.toml)\n"
    )
    first, second = lockfile.parse(text)
    assert (first.name, first.version, len(first.hashes), first.on_linux) == ("a", "1", 2, False)
    assert first.wanted_by == ("b", "ktls-fleet")
    assert second.on_linux
