# SPDX-License-Identifier: Apache-2.0
"""A host below a directory: a real deploy by the release's own code, systemd and user database a recording."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from ktls_host import release
from ktls_host.commands import CommandResult, Runner
from ktls_host.errors import KtlsError
from ktls_host.undeploy import run
from tests.unit.release.conftest import FakeSystem, artefacts, desired, tree, unsynced
from tests.vm.undeploy.guest import listing

__all__ = ["artefacts", "tree", "unsynced"]


#: What systemd removes when a unit stops; what is in /run beside it stays.
_ENDS_WITH = {"ktls-sidecar.service": "run/ktls-sidecar", "ktls-lease-helper.socket": "run/ktls-lease.sock"}


class Host(FakeSystem):
    """Enables units as systemd does, by links; has groups; says what serves."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.groups: set[str] = set()
        self.failed: set[str] = set()
        self.ktls = 0
        self.drains = True
        self.silent: set[str] = set()

    def run(self, *argv: str) -> CommandResult:
        line = " ".join(argv)
        if argv[0] == release.PYTHON:
            # That it runs is what other tests are about.
            return CommandResult(0, zipfile.ZipFile(argv[2]).read("meta.json").decode(), "")
        if self.fail_command and line.startswith(self.fail_command):
            return CommandResult(1, "", "it broke")
        if argv[:2] == ("systemctl", "list-units"):
            units = sorted(self.active | self.failed)
            rows = [f"{unit} loaded {'active' if unit in self.active else 'failed'} x words" for unit in units]
            return CommandResult(0, "\n".join(rows), "")
        if argv[0].endswith("/ktls-off"):
            self.ran.append(line)
            (self.root / "run/ktls").mkdir(parents=True, exist_ok=True)
            (self.root / "run/ktls/off").touch()
            return CommandResult(0, "", "")
        done = super().run(*argv)
        if argv[:3] == ("systemctl", "--no-reload", "enable"):
            for unit in argv[3:]:
                wants = self.root / "etc/systemd/system" / f"{unit.rpartition('.')[2]}s.target.wants"
                wants.mkdir(parents=True, exist_ok=True)
                if not (wants / unit).is_symlink():
                    (wants / unit).symlink_to(f"/etc/systemd/system/{unit}")
        if argv[:2] == ("systemctl", "stop"):
            self.active -= set(argv[2:])
            for path in [self.root / _ENDS_WITH[unit] for unit in argv[2:] if unit in _ENDS_WITH]:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        if argv[:2] == ("systemctl", "reset-failed"):
            self.failed -= set(argv[2:])
        if argv[0] == "systemd-sysusers":
            self.groups |= {"ktls", *self.users}
        if argv[0] == "userdel":
            self.groups.discard(argv[1])
        if argv[0] == "groupdel":
            self.groups.discard(argv[1])
        return done

    def has_group(self, name: str) -> bool:
        return name in self.groups

    def call(self, socket_path: str, request: dict[str, Any]) -> dict[str, Any]:
        answer = super().call(socket_path, request)
        name = "agent" if "agent" in socket_path else "sidecar"
        if name in self.silent:
            raise KtlsError("unreachable", "it says nothing")
        flag = (self.root / "run/ktls/off").exists()
        if flag and self.drains:
            self.ktls = max(0, self.ktls - 1)
        status = {
            **answer,
            "connections": {"ktls_tx": self.ktls, "userspace": 1},
            "phase": "userspace" if flag else "tx",
        }
        return {**status, "sidecar": {"mode": "x"}} if name == "agent" else status


class NoPrograms(Runner):
    """Nothing of the levers is started in these tests."""

    def run(self, argv: Any, stdin: str | None = None) -> CommandResult:
        return CommandResult(1, "", "no program here")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host with things of its own where ours will be."""
    path = tmp_path / "host"
    for directory in (
        "etc/systemd/system/multi-user.target.wants",
        "usr/local/bin",
        "usr/local/sbin",
        "run",
        "srv/ktls",
        "var/lib",
    ):
        (path / directory).mkdir(parents=True)
    (path / "srv/ktls/page.html").write_text("theirs")
    (path / "etc/systemd/system/multi-user.target.wants/other.service").symlink_to("/lib/systemd/system/other.service")
    return path


@pytest.fixture
def host(root: Path) -> Host:
    return Host(root)


@pytest.fixture
def before(root: Path) -> dict[str, list[object]]:
    """The listing of the host before anything was deployed. Ask for it before ``deployed``."""
    return listing.listing(str(root))


@pytest.fixture
def deployed(before: dict[str, list[object]], artefacts: dict[str, dict[str, Any]], host: Host) -> Host:
    """Deployed, has served, has an audit trail."""
    deploy(artefacts["1.0"], host)
    used(host)
    return host


def deploy(meta: dict[str, Any], host: Host) -> None:
    release.ensure(desired(meta), root=str(host.root), system=host)


def used(host: Host) -> None:
    """What programs of ours leave while they run."""
    files = {
        "var/lib/ktls/audit/audit.jsonl": '{"seq":1}\n',
        "var/lib/ktls/state.json": "{}",
        "var/lib/ktls/off": "",
        "run/ktls/revert": "nic ok",
        "run/ktls-agent/audit.head": "1 abc",
        "run/ktls-lease.sock": "",
        "run/ktls-sidecar/control.sock": "",
        "etc/ktls/.agent.json.0123456789ab.tmp": "a write that was killed",
    }
    for name, text in files.items():
        (host.root / name).parent.mkdir(parents=True, exist_ok=True)
        (host.root / name).write_text(text)


def undeploy(host: Host, *, check: bool = False, **wish: Any) -> run.Result:
    wanted = run.Desired(**{"audit": "none", **wish})
    return run.ensure(wanted, root=str(host.root), check=check, system=host, runner=NoPrograms())


def refusal(host: Host, **wish: Any) -> KtlsError:
    with pytest.raises(KtlsError) as caught:
        undeploy(host, **wish)
    assert "\n" not in caught.value.message
    return caught.value


def differences(before: dict[str, list[object]], host: Host) -> list[str]:
    return listing.differences(before, listing.listing(str(host.root)))


def record(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((host.root / "var/lib/ktls-levers/release.json").read_text())
    return found
