# SPDX-License-Identifier: Apache-2.0
"""``tools/prepare`` where it may not install: it names what is missing and leaves everything as it was."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("sh", "dirname", "id", "cat", "sha256sum", "cut", "tail", "mkdir")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A clone with nothing but the script, and a PATH with nothing but the shell's usual company."""
    (tmp_path / "bin").mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        assert found
        (tmp_path / "bin" / tool).symlink_to(found)
    (tmp_path / "clone" / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools" / "prepare", tmp_path / "clone" / "tools" / "prepare")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent == Path(tempfile.gettempdir()):
            break
        parent.chmod(0o755)
    return tmp_path


def prepare(tree: Path, system: str, *prefix: str) -> subprocess.CompletedProcess[str]:
    (tree / "os-release").write_text(system)
    env = {"PATH": str(tree / "bin"), "KTLS_OS_RELEASE": str(tree / "os-release")}
    command = [*prefix, str(tree / "bin" / "sh"), str(tree / "clone" / "tools" / "prepare")]
    return subprocess.run(command, capture_output=True, text=True, env=env, check=False)


def test_another_distribution_is_told_what_to_install(tree: Path) -> None:
    done = prepare(tree, 'ID=fedora\nVERSION_ID="44"\n')
    assert done.returncode == 1
    assert "this is fedora-44" in done.stderr
    assert {"qemu-system-x86", "mmdebstrap", "openssh-client"} <= set(done.stderr.split())
    assert [path.name for path in (tree / "clone").iterdir()] == ["tools"], "nothing was half-installed"


def test_an_ordinary_user_is_told_what_root_has_to_install(tree: Path) -> None:
    setpriv = shutil.which("setpriv")
    assert setpriv
    done = prepare(tree, "ID=debian\nVERSION_ID=13\n", setpriv, "--reuid=65534", "--clear-groups")
    assert done.returncode == 1
    assert "only root can install them: apt-get install qemu-system-x86" in done.stderr
    assert [path.name for path in (tree / "clone").iterdir()] == ["tools"]
