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


def test_no_service_of_what_is_installed_starts(tree: Path) -> None:
    """Prometheus is wanted for its commands. While apt-get runs a policy forbids services, and a mask does at boot."""
    policy, units = tree / "policy-rc.d", tree / "units"
    script = tree / "clone" / "tools" / "prepare"
    text = script.read_text()
    for path, instead in (("/usr/sbin/policy-rc.d", policy), ("/etc/systemd/system", units)):
        assert path in text
        text = text.replace(path, str(instead))
    script.write_text(text)
    for tool in ("chmod", "ln", "rm"):
        (tree / "bin" / tool).symlink_to(str(shutil.which(tool)))
    (tree / "bin" / "id").unlink()
    for name, body in (
        ("id", "echo 0"),
        ("apt-get", f'sh {policy}; echo "$* policy $?" >> {tree}/said; [ "$2" = update ]'),
    ):
        (tree / "bin" / name).write_text(f"#!{tree}/bin/sh\n{body}\n")
        (tree / "bin" / name).chmod(0o755)
    done = prepare(tree, "ID=debian\nVERSION_ID=13\n")
    assert "apt-get install failed" in done.stderr
    update, install = (tree / "said").read_text().splitlines()
    assert "--no-install-recommends" in install
    assert "prometheus" in install.split()
    assert install.endswith("policy 101"), "invoke-rc.d(8): 101 forbids"
    assert not policy.exists(), "it goes, whatever happened"
    assert (units / "prometheus.service").readlink() == Path("/dev/null")
    assert update.startswith("-q update")
    policy.write_text("#!/bin/sh\nexit 7\n")
    prepare(tree, "ID=debian\nVERSION_ID=13\n")
    assert policy.read_text().endswith("exit 7\n"), "a policy that was there stays"
