# SPDX-License-Identifier: Apache-2.0
"""A built release, and a host whose systemd is a recording."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import types
from pathlib import Path
from typing import Any

import pytest

from ktls_host import release
from ktls_host.commands import CommandResult
from ktls_host.errors import KtlsError

ROOT = Path(__file__).resolve().parents[3]


def _build_module() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("ktls_build", ROOT / "agent/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _build_module()


class FakeSystem(release.System):
    """systemd, users and sockets of a host under ``root``; real Python for the artefact."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root
        self.ran: list[str] = []
        self.active: set[str] = set()
        self.enabled: set[str] = set()
        self.users: set[str] = set()
        self.versions: dict[str, str] = {}  # unit -> version that answers
        self.fail: str | None = None  # unit that does not come up
        self.hang: str | None = None  # unit that starts and never answers
        self.journal = ""
        self.clock = 1000.0
        self.fail_command: str | None = None

    def run(self, *argv: str) -> CommandResult:
        line = " ".join(argv)
        if argv[0] == release.PYTHON:
            return super().run(*argv)
        if self.fail_command and line.startswith(self.fail_command):
            return CommandResult(1, "", "it broke")
        if argv[:2] == ("systemctl", "show"):
            units = argv[argv.index("--property") + 2 :]
            return CommandResult(0, "\n".join(self._show(unit) for unit in units), "")
        self.ran.append(line)
        if argv[0] == "systemctl" and argv[1] in ("start", "restart"):
            return self._start(argv[2])
        if argv[0] == "systemctl" and argv[1] == "stop":
            self.active.discard(argv[2])
        if argv[:3] == ("systemctl", "--no-reload", "enable"):
            self.enabled.update(argv[3:])
        if argv[0] == "systemctl" and "disable" in argv:
            self.enabled.discard(argv[-1])
        if argv[0] == "systemd-sysusers":
            self.users |= {"ktls-agent", "ktls-sidecar", "ktls-pull"}
        if argv[0] == "systemd-tmpfiles":
            for name in ("run/ktls", "run/ktls-agent", "var/lib/ktls-levers"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            (self.root / "run/ktls-levers.lock").touch()
        if argv[0] == "journalctl":
            return CommandResult(0, self.journal, "")
        if argv[0] == "userdel":
            self.users.discard(argv[1])
        return CommandResult(0, "", "")

    def _start(self, unit: str) -> CommandResult:
        if unit == self.fail:
            return CommandResult(1, "", f"Job for {unit} failed.")
        self.active.add(unit)
        self.versions[unit] = os.readlink(self.root / "usr/local/lib/ktls/current")
        return CommandResult(0, "", "")

    def _show(self, unit: str) -> str:
        loaded = (self.root / "etc/systemd/system" / unit).exists()
        assert "@." not in unit, "systemctl show refuses the name of a template"
        state = {
            "Id": unit,
            "ActiveState": "active" if unit in self.active else "inactive",
            "UnitFileState": "enabled" if unit in self.enabled else "disabled",
            "LoadState": "loaded" if loaded else "not-found",
            "NeedDaemonReload": "no",
            "NRestarts": "0",
        }
        return "".join(f"{key}={value}\n" for key, value in state.items())

    def call(self, socket_path: str, request: dict[str, Any]) -> dict[str, Any]:
        names = {"agent": "agent", "sentinel": "sentinel", "sidecar": "sidecar", "nginx": "nginx-watch"}
        unit = next(f"ktls-{unit}.service" for name, unit in names.items() if name in socket_path)
        if unit == self.hang or unit not in self.active:
            raise KtlsError("unreachable", f"cannot connect to {socket_path}")
        return {"ok": True, "version": self.versions[unit]}

    def has_user(self, name: str) -> bool:
        return name in self.users

    def now(self) -> float:
        return self.clock

    def sleep(self, seconds: float) -> None:
        self.clock += seconds


@pytest.fixture(autouse=True)
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait for a disk: no power is cut here."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what a release is made of, to change and to build from."""
    root = tmp_path_factory.mktemp("tree")
    shutil.copytree(ROOT / "agent", root / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "requirements").mkdir()
    shutil.copy(ROOT / "requirements/host.lock", root / "requirements")
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


@pytest.fixture(scope="session")
def artefacts(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return the meta data of three built releases, by version."""
    out = tmp_path_factory.mktemp("built")
    return {v: build.build(tree, out / f"{v}.pyz", v) for v in ("1.0", "1.1", "1.2")}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "host"
    (path / "etc/ktls/tls").mkdir(parents=True)
    (path / "etc/ktls/tls/cert.pem").write_text("a certificate")
    (path / "etc/ktls/tls/key.pem").write_text("a key")
    return path


@pytest.fixture
def system(root: Path) -> FakeSystem:
    return FakeSystem(root)


def desired(meta: dict[str, Any], **changes: Any) -> release.DesiredRelease:
    agent = {"socket": "/run/ktls-agent/agent.sock", "state_dir": "/var/lib/ktls"}
    sidecar = {
        "root": "/srv/ktls", "certificate": "/etc/ktls/tls/cert.pem",
        "control_socket": "/run/ktls-sidecar/control.sock",
    }  # fmt: skip
    fields: dict[str, Any] = {
        "src": meta["path"], "version": meta["version"], "sha256": meta["sha256"],
        "agent_config": agent, "sidecar_config": sidecar, "wait_s": 5.0,
    }  # fmt: skip
    return release.DesiredRelease(**{**fields, **changes})


def snapshot(root: Path) -> dict[str, str]:
    found = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file():
            found[name] = f"{path.stat().st_mode:o} {hash(path.read_bytes())}"
    return found


def loads(path: Path) -> Any:
    return json.loads(path.read_text())
