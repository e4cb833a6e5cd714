# SPDX-License-Identifier: Apache-2.0
"""Build the release that the upgrade scenario starts from.

    python -m tests.molecule.previous --output FILE

It prints one JSON object: ``path``, ``version``, and ``what`` that release is, in words. The first of these that can be
had, none of which needs the network:

1. what ``KTLS_UPGRADE_FROM`` names: a release file, or a commit or tag of this repository;
2. the newest release tag (``v1.2.3``) that is behind this tree and not this very commit;
3. the commit ``BEFORE``, the last one at which a host had no other datapath than the sidecar;
4. this tree itself, built with a lower version. That shows the switch of versions, the restart under load and the
   state's survival, and not that the formats of two releases agree: ``what`` says so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Of ``main``, 26 November 2026. Nothing was released before it.
BEFORE = "69ed1644dc2b"
STAND_IN = "0.0.1"
#: What a release is built from.
INPUTS = ("agent", "requirements/host.lock", "pyproject.toml")
_TAG = re.compile(r"v(\d+)\.(\d+)\.(\d+)\Z")


class NoPreviousError(Exception):
    """What was asked for cannot be built; the message is one line."""


def choose(root: Path = ROOT, given: str | None = None) -> list[tuple[str, str]]:
    """Commits to try, best first, each with what it is; only ``given`` when there is one."""
    if given:
        return [(given, f"commit {given}, by KTLS_UPGRADE_FROM")]
    found = [(tag, f"release {tag}") for tag in newest_tags(_git(root, "tag", "--merged", "HEAD"))]
    head = _commit(root, "HEAD")
    wanted = [*found, (BEFORE, f"commit {BEFORE}, the last one without datapaths beside the sidecar")]
    return [(name, what) for name, what in wanted if _commit(root, name) not in (None, head)]


def newest_tags(listed: str | None) -> list[str]:
    """Release tags out of ``git tag``, the newest version first. Pure."""
    versions = {tag: _TAG.match(tag) for tag in (listed or "").split()}
    known = {tag: tuple(map(int, match.groups())) for tag, match in versions.items() if match}
    return sorted(known, key=lambda tag: known[tag], reverse=True)


def build(output: Path, root: Path = ROOT, given: str | None = None) -> dict[str, str]:
    """Build it into ``output``. Raises :class:`NoPreviousError` when ``given`` cannot be had, or nothing can."""
    if given and Path(given).is_file():
        shutil.copyfile(given, output)
        said = json.loads(_run([sys.executable, "-I", str(output), "version"], root))
        return {"path": str(output), "version": said["version"], "what": f"the file {given}, by KTLS_UPGRADE_FROM"}
    failed = []
    for commit, what in choose(root, given):
        found = _tried(commit, output, root)
        if isinstance(found, dict):
            return {**found, "what": what}
        failed.append(found)
    if given:
        raise NoPreviousError(failed[0] if failed else f"{given} is neither a file nor a commit of {root}")
    what = f"a stand-in: this tree, built as {STAND_IN}; the formats of two releases are not compared"
    done = _run([sys.executable, str(root / "agent/build.py"), "--output", str(output), "--version", STAND_IN], root)
    return {"path": str(output), "version": json.loads(done)["version"], "what": "; ".join([what, *failed])}


def _tried(commit: str, output: Path, root: Path) -> dict[str, str] | str:
    """Return what was built of ``commit``, or why it was not."""
    try:
        return _of_commit(commit, output, root)
    except NoPreviousError as error:
        return str(error)


def _of_commit(commit: str, output: Path, root: Path) -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="ktls-previous-") as scratch:
        archive = subprocess.run(
            [*_git_argv(root), "archive", "--format=tar", commit, *INPUTS], capture_output=True, check=False, timeout=60
        )
        if archive.returncode != 0:
            raise NoPreviousError(f"{commit} cannot be had: {_last(archive.stderr.decode())}")
        subprocess.run(["tar", "-x", "-C", scratch], input=archive.stdout, check=True, timeout=60)
        short = str(_git(root, "rev-parse", "--short=12", f"{commit}^{{commit}}"))
        found = re.search(r'^version = "([^"]+)"', (Path(scratch) / "pyproject.toml").read_text(), re.MULTILINE)
        version = f"{found.group(1) if found else '0'}+g{short}"
        argv = [sys.executable, f"{scratch}/agent/build.py", "--output", str(output), "--version", version]
        return {"path": str(output), "version": str(json.loads(_run(argv, Path(scratch)))["version"])}


def _run(argv: list[str], cwd: Path) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, check=False, timeout=120)
    if done.returncode != 0:
        raise NoPreviousError(f"`{' '.join(argv[1:])}` failed: {_last(done.stderr)}")
    return done.stdout


def _last(text: str) -> str:
    return (text.strip().splitlines() or ["no message"])[-1]


def _git_argv(root: Path) -> list[str]:
    return ["git", "-c", f"safe.directory={root}", "-C", str(root)]


def _git(root: Path, *arguments: str) -> str | None:
    if not (root / ".git").exists():
        return None  # an unpacked archive inside some other repository is not that repository
    try:
        done = subprocess.run([*_git_argv(root), *arguments], capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit(root: Path, name: str) -> str | None:
    return _git(root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")


def main(argv: list[str] | None = None) -> int:
    """Build, and print what was built."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.molecule.previous", description="Build the previous release."
    )
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args(argv)
    try:
        print(json.dumps(build(arguments.output, given=os.environ.get("KTLS_UPGRADE_FROM") or None)))
    except NoPreviousError as error:
        print(f"previous: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
