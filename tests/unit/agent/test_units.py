# SPDX-License-Identifier: Apache-2.0
"""The units: what systemd says of their exposure, and the promises that the code leans on."""

from __future__ import annotations

import configparser
import subprocess
from pathlib import Path

import pytest

from ktls_agent.config import HELPER_SOCKETS
from ktls_host.datapath import nginx
from ktls_host.nginx import dropin, root

UNITS = Path(__file__).resolve().parents[3] / "agent/units"


def values(name: str, section: str) -> dict[str, list[str]]:
    class Several(dict[str, list[str]]):
        def __setitem__(self, key: str, value: list[str]) -> None:
            super().__setitem__(key, [*self.get(key, []), *value] if isinstance(value, list) else value)

    parser = configparser.RawConfigParser(strict=False, dict_type=Several, comment_prefixes="#")  # type: ignore[arg-type]
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / name)
    return {key: value.split("\n") for key, value in parser.items(section)}


HELPERS = ("lease", "module", "nic")
OF_DATAPATHS = ("nginx",)
HELPER_SERVICES = tuple(f"ktls-{name}-helper@.service" for name in (*HELPERS, *OF_DATAPATHS))
OFF_SERVICES = ("ktls-lease.service", "ktls-boot.service")
# In tenths, as --threshold= has it. Every service is here: a new one must be given a limit.
EXPOSURE = {
    "ktls-agent.service": 10,
    "ktls-diag.service": 20,
    "ktls-nginx-watch.service": 15,
    "ktls-datapath.service": 20,
    "ktls-pull.service": 15,
    "ktls-sentinel.service": 20,
    "ktls-service-helper@.service": 20,
    "ktls-sidecar.service": 15,
    **dict.fromkeys((*HELPER_SERVICES, *OFF_SERVICES), 20),
}


def test_every_service_has_a_limit() -> None:
    assert {path.name for path in UNITS.glob("*.service")} <= EXPOSURE.keys()


@pytest.mark.parametrize("name", EXPOSURE)
def test_exposure(name: str) -> None:
    limit = f"--threshold={EXPOSURE[name]}"
    command = ["systemd-analyze", "security", "--offline=true", limit, "--no-pager", str(UNITS / name)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Overall exposure level" in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout.splitlines()[-1]
    assert "Unknown" not in done.stderr, done.stderr


def test_systemd_understands_every_line_of_our_units(tmp_path: Path) -> None:
    # The programs do not exist here; their path is put where one does.
    for path in UNITS.iterdir():
        if path.suffix in (".service", ".socket", ".timer", ".path"):
            text = path.read_text().replace("/usr/local/bin/ktls-agent", "/bin/true")
            (tmp_path / path.name).write_text(text.replace("/usr/local/sbin/ktls-off", "/bin/true"))
    names = ["ktls-agent.service", "ktls-lease.timer", *OFF_SERVICES]
    names += [f"ktls-{name}-helper.socket" for name in (*HELPERS, *OF_DATAPATHS)]
    names += ["ktls-datapath.path", "ktls-nginx-log.socket", "ktls-nginx-watch.service"]
    names += [name.replace("@.", "@1.") for name in HELPER_SERVICES]
    command = ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in names)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if "ktls" in line] == []


def test_agent_is_unprivileged_and_watched() -> None:
    service = values("ktls-agent.service", "Service")
    assert service["User"] == ["ktls-agent"]
    assert service["CapabilityBoundingSet"] == [""]
    assert service["Restart"] == ["always"]
    assert service["Type"] == ["notify"]
    assert float(service["WatchdogSec"][0]) >= 10
    assert values("ktls-agent.service", "Unit")["StartLimitIntervalSec"] == ["0"]
    assert "-/etc/ktls/tls/key.pem" in service["InaccessiblePaths"][0]


def test_fetcher_can_only_raise_the_flag() -> None:
    service = values("ktls-pull.service", "Service")
    assert service["User"] == ["ktls-pull"]
    assert service["SupplementaryGroups"] == ["ktls"]
    assert service["CapabilityBoundingSet"] == [""]
    assert service["ReadWritePaths"] == ["-/run/ktls"]
    assert service["SocketBindDeny"] == ["any"]
    assert service["RestrictAddressFamilies"] == ["AF_UNIX AF_INET AF_INET6"]
    assert {"MemoryMax", "WatchdogSec", "CPUQuota"} <= set(service)
    assert service["RuntimeDirectoryPreserve"] == ["restart"], "the highest serial is in the status file"
    assert values("ktls-pull.service", "Unit")["StartLimitIntervalSec"] == ["0"]


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


@pytest.mark.parametrize("name", HELPERS)
def test_root_helpers_are_one_request_each_and_only_for_the_agent(name: str) -> None:
    socket = values(f"ktls-{name}-helper.socket", "Socket")
    assert socket["ListenStream"] == [HELPER_SOCKETS[f"{name}_socket"]]
    assert socket["Accept"] == ["yes"]
    assert (socket["SocketUser"], socket["SocketGroup"], socket["SocketMode"]) == (["root"], ["ktls-agent"], ["0660"])
    service = values(f"ktls-{name}-helper@.service", "Service")
    assert service["ExecStart"] == [f"/usr/local/bin/ktls-agent helper {name}"], "no argument of anybody's choice"
    capabilities = {"lease": "", "module": "CAP_SYS_MODULE", "nic": "CAP_NET_ADMIN"}
    assert service["CapabilityBoundingSet"] == [capabilities[name]]
    assert float(service["RuntimeMaxSec"][0]) <= 60
    for unit in (f"ktls-{name}-helper.socket",):
        assert unit in values("ktls-agent.service", "Unit")["Wants"][0].split()


def test_lease_timer_ticks_and_cannot_be_stopped_by_a_limit() -> None:
    timer = values("ktls-lease.timer", "Timer")
    assert (timer["OnActiveSec"], timer["OnUnitActiveSec"], timer["AccuracySec"]) == (["1s"], ["1s"], ["100ms"])
    assert timer["Unit"] == ["ktls-lease.service"]
    for unit in ("ktls-lease.timer", "ktls-lease.service"):
        assert values(unit, "Unit")["StartLimitIntervalSec"] == ["0"], "it is started each second"
        assert "[Install]" not in (UNITS / unit).read_text(), "static: the agent has it started"


@pytest.mark.parametrize("name", OFF_SERVICES)
def test_undoing_needs_nothing_that_may_be_missing(name: str) -> None:
    unit, service = values(name, "Unit"), values(name, "Service")
    assert not {"Requires", "Requisite", "BindsTo", "RequiresMountsFor", "AssertPathExists"} & unit.keys()
    assert service["Type"] == ["oneshot"]
    assert "User" not in service
    # Each of these makes a directory or a file, which a full or read-only disk refuses.
    assert not {"PrivateTmp", "StateDirectory", "RuntimeDirectory", "CacheDirectory", "LogsDirectory"} & service.keys()
    assert all(path.startswith("-") for path in service["ReadWritePaths"][0].split())
    assert service["ExecStart"] == [f"/usr/local/sbin/ktls-off --{name[5:-8]}"]
    assert float(service["TimeoutStartSec"][0]) <= 20


def test_boot_check_comes_before_all_that_serves() -> None:
    unit = values("ktls-boot.service", "Unit")
    assert {"ktls-agent.service", "ktls-sidecar.service", "nginx.service"} <= set(unit["Before"][0].split())
    assert ".socket" not in unit["Before"][0], "an ordering cycle: systemd would drop one of the two from the boot"
    assert values("ktls-boot.service", "Install")["WantedBy"] == ["multi-user.target"]
    assert values("ktls-boot.service", "Service")["RemainAfterExit"] == ["yes"]


def test_users_and_directories_are_understood_by_systemd(tmp_path: Path) -> None:
    # sysusers refuses lines that it does not understand, with a non-zero status.
    (tmp_path / "etc").mkdir()
    command = ["systemd-sysusers", f"--root={tmp_path}", str(UNITS / "ktls.sysusers.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ktls:x:" in (tmp_path / "etc/group").read_text()
    members = next(line for line in (tmp_path / "etc/group").read_text().splitlines() if line.startswith("ktls:"))
    assert members.endswith(":ktls-agent,ktls-pull,ktls-sidecar")
    command = ["systemd-tmpfiles", f"--root={tmp_path}", "--create", str(UNITS / "ktls.tmpfiles.conf")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run/ktls").stat().st_mode & 0o7777 == 0o775
    assert (tmp_path / "run/ktls-agent").stat().st_mode & 0o7777 == 0o2755
    assert (tmp_path / "var/lib/ktls-levers").stat().st_mode & 0o7777 == 0o700
    assert (tmp_path / "run/ktls-levers.lock").stat().st_mode & 0o7777 == 0o600


def test_nginx_helper_is_for_the_agent_alone_and_its_unit_has_no_more_than_nginx_asks_for() -> None:
    socket = values("ktls-nginx-helper.socket", "Socket")
    assert socket["ListenStream"] == [nginx.HELPER]
    assert (socket["SocketUser"], socket["SocketGroup"], socket["SocketMode"]) == (["root"], ["ktls-agent"], ["0660"])
    service = values("ktls-nginx-helper@.service", "Service")
    assert service["ExecStart"] == ["/usr/local/bin/ktls-agent helper nginx"]
    assert service["CapabilityBoundingSet"] == ["CAP_DAC_OVERRIDE CAP_NET_BIND_SERVICE"]
    assert "-/etc/nginx" in service["ReadWritePaths"][0].split()
    assert float(service["RuntimeMaxSec"][0]) <= 60


def test_log_of_nginx_is_held_by_systemd_and_names_who_writes() -> None:
    socket = values("ktls-nginx-log.socket", "Socket")
    assert socket["ListenDatagram"] == [dropin.LOG_SOCKET]
    assert socket["PassCredentials"] == ["yes"]
    watch = values("ktls-nginx-watch.service", "Service")
    assert watch["DynamicUser"] == ["yes"]
    assert watch["CapabilityBoundingSet"] == [""]
    assert watch["RuntimeDirectory"] == [nginx.WATCH.split("/")[2]]


def test_flags_are_watched_for_changes_without_agent_and_python() -> None:
    path = values("ktls-datapath.path", "Path")
    assert path["PathChanged"] == [f"/{flag}" for flag in ("run/ktls/off", "run/ktls/lapsed", "var/lib/ktls/off")]
    assert set(path["PathChanged"]) == {f"/{flag}" for flag in root.FLAGS}
    service = values("ktls-datapath.service", "Service")
    assert service["ExecStart"] == ["/usr/local/sbin/ktls-off --datapath"]
    assert not {"PrivateTmp", "StateDirectory", "RuntimeDirectory"} & service.keys(), "a full disk refuses these"
    for unit in OFF_SERVICES:
        assert "-/etc/nginx" in values(unit, "Service")["ReadWritePaths"][0].split()
