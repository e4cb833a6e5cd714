# SPDX-License-Identifier: Apache-2.0
"""A whole release, twice: two clones, another directory, time, umask, time zone and locale, and the same bytes.

Then it is checked with the key that signed it, tampered with, and what it says of itself is read from what it holds.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from ktls_control import signed
from tests import sources
from tools import collection

ROOT = Path(__file__).resolve().parents[2]
#: Elsewhere, later, and by somebody who lets nobody read along.
CONDITIONS = (
    ("one", 0o022, {"TZ": "UTC", "LC_ALL": "C.UTF-8"}),
    ("another/a deeper place", 0o077, {"TZ": "Asia/Kathmandu", "LC_ALL": "C", "PYTHONHASHSEED": "7"}),
)


def run(command: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(list(command), capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with a commit of what is in this checkout now, committed or not."""
    place = tmp_path_factory.mktemp("repository")
    names = "\0".join(sources.names(ROOT)) + "\0"
    run(["tar", "-C", str(ROOT), "-cf", str(place / "files.tar"), "--null", "-T", "-"], input=names)
    run(["tar", "-C", str(place), "-xf", str(place / "files.tar")])
    (place / "files.tar").unlink()
    git = [
        "git",
        "-C",
        str(place),
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@test.internal",
        "-c",
        "commit.gpgsign=false",
    ]
    for arguments in (["init", "-q"], ["add", "-A", "-f"], ["commit", "-q", "-m", "x"]):
        run([*git, *arguments])
    return place


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A throw-away key; its allowed signers lie beside it."""
    place = tmp_path_factory.mktemp("key")
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "throw-away", "-f", str(place / "key")])
    public = " ".join((place / "key.pub").read_text().split()[:2])
    (place / "allowed_signers").write_text(f'{signed.PRINCIPAL} namespaces="{signed.NAMESPACE}" {public}\n')
    return place / "key"


@pytest.fixture(scope="module")
def releases(repository: Path, key: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two releases of one commit, both made at the same time, for a machine has more than one core."""
    place, running, made = tmp_path_factory.mktemp("releases"), [], []
    for name, umask, environment in CONDITIONS:
        clone = place / name / "clone"
        run(["git", "clone", "-q", str(repository), str(clone)], umask=umask)
        (clone / "roles/__pycache__").mkdir()
        (clone / "roles/__pycache__/left.pyc").write_text("lies around, and git ignores it")
        search = os.pathsep.join(str(clone / part) for part in (".", "agent", "control", "lab"))
        output = place / name / "release"
        command = [sys.executable, "-m", "tools.releasing", "--output", str(output), "--sign", str(key)]
        running.append(
            subprocess.Popen(
                command,
                cwd=clone,
                env={**os.environ, **environment, "PYTHONPATH": search},
                umask=umask,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        made.append(output)
    for process in running:
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
    return made


def test_two_builds_are_the_same_bytes(releases: list[Path]) -> None:
    one, two = ({path.name: signed.digest(path) for path in place.iterdir()} for place in releases)
    assert one == two, "the signature too: Ed25519 has no chance in it"
    endings = sorted(name.rpartition(".")[2] for name in one if not name.startswith("SHA256SUMS"))
    assert endings == ["gz", "json", "json", "json", "pyz", "whl"]
    modes = {path.stat().st_mode & 0o777 for path in releases[1].iterdir()}
    assert modes <= {0o755, 0o644}, "for everybody to read, whatever the umask"


def test_nothing_but_the_commit_is_in_it(releases: list[Path]) -> None:
    (archive,) = releases[0].glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        names = packed.getnames()
    assert not [name for name in names if name.endswith(".pyc")]
    assert {"agent/ktls.pyz", "playbooks/undeploy.yml", "MANIFEST.json"} <= set(names)


def test_one_zipapp_in_all_of_them(releases: list[Path]) -> None:
    (zipapp,) = releases[0].glob("*.pyz")
    (archive,) = releases[0].glob("*.tar.gz")
    (wheel,) = releases[0].glob("*.whl")
    digest = signed.digest(zipapp)
    with tarfile.open(archive) as packed:
        inside = packed.extractfile("agent/ktls.pyz")
        assert inside is not None
        assert hashlib.sha256(inside.read()).hexdigest() == digest
    with zipfile.ZipFile(wheel) as installed:
        (name,) = (name for name in installed.namelist() if name.endswith("agent/ktls.pyz"))
        assert hashlib.sha256(installed.read(name)).hexdigest() == digest


def test_one_collection_in_both_of_them(releases: list[Path]) -> None:
    (archive,) = releases[0].glob("*.tar.gz")
    (wheel,) = releases[0].glob("*.whl")
    with tarfile.open(archive) as packed, zipfile.ZipFile(wheel) as installed:
        for member in packed:
            if member.isfile():
                inside = packed.extractfile(member)
                assert inside is not None
                assert installed.read(f"ansible_collections/ktls/fleet/{member.name}") == inside.read(), member.name


def test_each_says_which_commit_it_is(releases: list[Path], repository: Path, tmp_path: Path) -> None:
    commit = run(["git", "-C", str(repository), "rev-parse", "--short=12", "HEAD"]).stdout.strip()
    (zipapp,) = releases[0].glob("*.pyz")
    (wheel,) = releases[0].glob("*.whl")
    assert f"+g{commit}" in zipapp.name
    assert f"(commit {commit}; host.lock" in run([sys.executable, str(zipapp), "agent", "--version"]).stdout
    # A wheel is installed by unpacking it; nothing else of this project is in the way.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    said = run(
        [sys.executable, "-m", "ktls_control.cli", "--version"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert said.stdout.startswith(f"ktls 0.1.0 (commit {commit}; control.lock sha256:")
    for name in ("release.json", "ktls-control.cdx.json", "ktls-host.cdx.json"):
        assert commit in (releases[0] / name).read_text()
    bom = json.loads((releases[0] / "ktls-host.cdx.json").read_text())
    assert bom["metadata"]["component"]["hashes"][0]["content"] == signed.digest(zipapp)


def test_collection_of_it_installs(releases: list[Path], tmp_path: Path) -> None:
    """ansible-galaxy checks every file against the manifest."""
    (archive,) = releases[1].glob("*.tar.gz")
    assert (collection.install(archive, tmp_path) / "agent/ktls.pyz").is_file()


def test_signature_and_what_was_tampered_with(releases: list[Path], key: Path, repository: Path) -> None:
    place, signers = releases[1], key.with_name("allowed_signers")
    search = os.pathsep.join(str(repository / part) for part in (".", "agent", "control", "lab"))
    command = [sys.executable, "-m", "tools.releasing", "--verify", str(place), "--signers", str(signers)]
    environment = {**os.environ, "PYTHONPATH": search}
    assert run(command, cwd=repository, env=environment).stdout.count("is what was signed") == 6
    (zipapp,) = place.glob("*.pyz")
    content = bytearray(zipapp.read_bytes())
    content[len(content) // 2] ^= 1
    zipapp.write_bytes(bytes(content))
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "is not the file that was signed" in done.stderr


def test_changed_tree_is_refused_and_says_so_where_it_is_wanted(repository: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed"
    run(["git", "clone", "-q", str(repository), str(changed)])
    (changed / "agent/ktls_agent/new.py").write_text("x = 1\n")
    search = os.pathsep.join(str(changed / part) for part in (".", "agent", "control", "lab"))
    command = [sys.executable, "-m", "tools.releasing", "--output", str(tmp_path / "release")]
    done = subprocess.run(
        command, cwd=changed, env={**os.environ, "PYTHONPATH": search}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "not those of commit" in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "release").exists()
