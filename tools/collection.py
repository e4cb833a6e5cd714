# SPDX-License-Identifier: Apache-2.0
"""Build the collection as it is published.

    .venv/bin/python -m tools.collection [--output DIR]

prints the archive's path. What goes in is a list of names, so that nothing gets in by lying around: no lab, no test. It
has no links (``ansible-test`` follows none), and the release for hosts is in it ready made, as ``agent/ktls.pyz``:
whoever installs the collection needs neither its sources nor what they are built with. A plain ``ansible-galaxy
collection build`` in the checkout makes a collection too, with links, and with the sources that a deployment is then
built from.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from tools import canonical, changelog

ROOT = Path(__file__).resolve().parents[1]
#: All of the checkout that is part of the collection.
CONTENT = (
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "awx",
    "bindep.txt",
    "changelogs",
    "docs",
    "galaxy.yml",
    "meta",
    "playbooks",
    "plugins",
    "requirements.txt",
    "roles",
)
#: What tools leave behind anywhere.
LEFT_BEHIND = ("__pycache__", "*.pyc", ".*", "*.orig", "*.rej", "*.swp", "*.retry", "*~")
#: The release for hosts, in the collection.
RELEASE = Path("agent") / "ktls.pyz"


class BuildError(Exception):
    """The collection cannot be built; the message is one line with the cure."""


def stage(target: Path, root: Path = ROOT) -> Path:
    """Write the collection's files into ``target``, which must not exist. Links become what they lead to.

    :raises BuildError: something is missing.
    """
    target.mkdir(parents=True)
    ignored = shutil.ignore_patterns(*LEFT_BEHIND)
    for name in CONTENT:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignored)
        elif source.is_file():
            shutil.copyfile(source, target / name)
        else:
            raise BuildError(f"{source} is missing; check out the whole repository")
    release = release_builder(root)
    try:
        changelog.write(root, target / "changelogs" / "changelog.yaml")
    except changelog.ChangelogError as error:
        raise BuildError(str(error)) from error
    try:
        release.build(root, target / RELEASE)
    except release.BuildError as error:
        raise BuildError(f"the release for hosts: {error}") from error
    return target


def build(output: Path, root: Path = ROOT) -> Path:
    """Build the archive in ``output``, over an older one. Returns its path.

    :raises BuildError: it cannot be built.
    """
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ktls-collection-") as scratch:
        staged = stage(Path(scratch) / "stage", root)
        _galaxy("collection", "build", "--force", "--output-path", scratch, str(staged), home=Path(scratch))
        (built,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(built) as archive:
            links = [member.name for member in archive if member.issym() or member.islnk()]
        if links:
            raise BuildError(f"{built.name} would hold links: {', '.join(links)}")
        # A rename within one file system: nobody finds half an archive.
        half = output / f".{built.name}.{os.getpid()}"
        try:
            half.write_bytes(canonical.collection(built))
        except canonical.CanonicalError as error:
            raise BuildError(str(error)) from error
        return half.replace(output / built.name)


def install(built: Path, collections: Path) -> Path:
    """Install the archive below ``collections``. Returns where its files are.

    :raises BuildError: ``ansible-galaxy`` refuses it.
    """
    collections = collections.resolve()
    with tempfile.TemporaryDirectory(prefix="ktls-collection-") as scratch:
        options = ("--offline", "--no-deps", "--force", "--collections-path", str(collections))
        _galaxy("collection", "install", *options, str(built.resolve()), home=Path(scratch))
    return collections / "ansible_collections" / "ktls" / "fleet"


def _galaxy(*arguments: str, home: Path) -> None:
    """Run ``ansible-galaxy`` of this Python, with nobody's configuration."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [sys.executable, "-m", "ansible", "galaxy", *arguments],
        env={**kept, "HOME": str(home), "ANSIBLE_HOME": str(home / ".ansible"), "LC_ALL": "C.UTF-8"},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise BuildError(f"ansible-galaxy {' '.join(arguments[:2])}: {said[0]}")


def release_builder(root: Path) -> ModuleType:
    """``agent/build.py``, which is a program beside its sources and in no package.

    :raises BuildError: it is not there.
    """
    spec = importlib.util.spec_from_file_location("ktls_release_builder", root / "agent" / "build.py")
    if spec is None or spec.loader is None:
        raise BuildError(f"{root / 'agent' / 'build.py'} is missing; check out the whole repository")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(argv: list[str] | None = None) -> int:
    """Build, and print the archive's path."""
    parser = argparse.ArgumentParser(prog="tools.collection", description="Build the collection ktls.fleet.")
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="directory (default: %(default)s)")
    arguments = parser.parse_args(argv)
    return run(lambda: print(build(arguments.output)))


def run(work: Callable[[], object]) -> int:
    """The exit status: 0, or 1 when the work ended in a :class:`BuildError`, which is told."""
    try:
        work()
    except BuildError as error:
        print(f"collection: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
