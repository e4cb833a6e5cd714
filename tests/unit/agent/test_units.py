# SPDX-License-Identifier: Apache-2.0
"""The units: what systemd says of their exposure, and the promises that the code leans on."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[3] / "agent/units"


def values(name: str, section: str) -> dict[str, list[str]]:
    class Several(dict[str, list[str]]):
        def __setitem__(self, key: str, value: list[str]) -> None:
            super().__setitem__(key, [*self.get(key, []), *value] if isinstance(value, list) else value)

    parser = configparser.RawConfigParser(strict=False, dict_type=Several, comment_prefixes="#")  # type: ignore[arg-type]
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return {key: value.split("\n") for key, value in parser.items(section)}


@pytest.mark.parametrize(("name", "limit"), [("ktls-agent.service", "15"), ("ktls-diag.service", "20")])
def test_exposure(name: str, limit: str) -> None:
    command = ["systemd-analyze", "security", "--offline=true", f"--threshold={limit}", "--no-pager", str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Overall exposure level" in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout.splitlines()[-1]
    assert "Unknown" not in done.stderr, done.stderr


def test_agent_is_unprivileged_and_watched() -> None:
    service = values("ktls-agent.service", "Service")
    assert service["User"] == ["ktls-agent"]
    assert service["CapabilityBoundingSet"] == [""]
    assert service["Restart"] == ["always"]
    assert service["Type"] == ["notify"]
    assert float(service["WatchdogSec"][0]) >= 10
    assert values("ktls-agent.service", "Unit")["StartLimitIntervalSec"] == ["0"]
    assert "-/etc/ktls/tls/key.pem" in service["InaccessiblePaths"][0]


def test_helper_has_what_it_needs_and_no_agent_identity() -> None:
    service = values("ktls-diag.service", "Service")
    needed = ["CAP_NET_ADMIN CAP_SYS_ADMIN CAP_SYS_PTRACE"]
    assert service["CapabilityBoundingSet"] == service["AmbientCapabilities"] == needed
    assert service["RestrictNamespaces"] == ["net"]
    assert any("@debug" in line and line.startswith("~") for line in service["SystemCallFilter"])
    assert service["DynamicUser"] == ["yes"]
    assert "User" not in service
    assert "PrivateUsers" not in service, "netlink asks for the capability in the user namespace of the network"
    assert values("ktls-diag.socket", "Socket")["SocketMode"] == ["0660"]


def test_users_and_directories_are_understood_by_systemd(tmp_path: Path) -> None:
    # sysusers refuses lines that it does not understand, with a non-zero status.
    (tmp_path / "etc").mkdir()
    command = ["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "ktls.sysusers.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ktls:x:" in (tmp_path / "etc/group").read_text()
    members = next(line for line in (tmp_path / "etc/group").read_text().splitlines() if line.startswith("ktls:"))
    assert members.endswith(":ktls-agent,ktls-sidecar")
    command = ["systemd-tmpfiles", f"--root={tmp_path}", "--create", str(UNITS / "ktls.tmpfiles.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/ktls").stat().st_mode & 0o777 == 0o775
