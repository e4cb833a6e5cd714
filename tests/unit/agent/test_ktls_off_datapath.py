# SPDX-License-Identifier: Apache-2.0
"""The datapath step of ``ktls-off``: nginx loses our drop-in and is reloaded, whoever raised the flag."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ktls_host.nginx import settings
from ktls_host.nginx.root import TURN_WAIT_S

from .test_ktls_off import SHELLS, fill, lease, off, root, steps, tiny, write

__all__ = ["root", "tiny"]
ON = "etc/nginx/conf.d/ktls-on.conf"


def nginx(root: Path, *, test: str = "", reload: str = "", active: str = "exit 0", log: Path | None = None) -> Path:
    """An nginx with our drop-in, and a systemd; both note what they are asked. The bodies are what goes wrong."""
    log = log or root / "calls.log"
    write(root / ON, "ssl_conf_command Options KTLS;\n")
    shell = settings.for_shell({"probe_port": 8444, "server_name": "web1"}).decode()
    write(root / "etc/ktls/datapath", shell)
    write(root / "usr/sbin/nginx", f'#!/bin/sh\necho "nginx $*" >>{log}\n{test}\n', 0o755)
    verbs = f"case $1 in\nis-active) {active} ;;\nreload)\n{reload or ':'}\n;;\nesac\n"
    systemctl = f'#!/bin/sh\necho "systemctl $*" >>{log}\n{verbs}'
    write(root / "sbin/systemctl", systemctl, 0o755)
    return log


@pytest.mark.parametrize("shell", SHELLS)
def test_flags_first_then_test_then_reload(root: Path, shell: str) -> None:
    log = nginx(root, test=f"[ -e {root}/run/ktls/off ] && [ ! -e {root}/{ON} ] || exit 9")
    done = off(root, "why", shell=shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert log.read_text().splitlines() == [
        "systemctl is-active --quiet nginx.service", "nginx -t -q", "systemctl reload nginx.service",
    ]  # fmt: skip
    assert next(iter(steps(root))) == "datapath"
    assert steps(root)["datapath"].startswith("ok removed ")
    assert not list((root / "etc/nginx/conf.d").iterdir())
    assert not (root / "run/ktls/datapath.busy").exists()
    log.unlink()
    assert off(root, "again", shell=shell).returncode == 0
    assert steps(root)["datapath"] == "ok nginx has no kernel TLS"
    assert not log.exists()


@pytest.mark.parametrize("shell", SHELLS)
def test_a_reload_has_the_time_that_a_busy_host_takes_and_no_step_has_more(root: Path, shell: str) -> None:
    """It took more than ten seconds on one; what systemd gives to the whole is more than all steps together."""
    nginx(root)
    limits = root / "limits.log"
    write(root / "sbin/timeout", f'#!/bin/sh\necho "$3 $4 ${{5:-}}" >>{limits}\nshift 3\nexec "$@"\n', 0o755)
    assert off(root, shell=shell).returncode == 0
    given = [line.split() for line in limits.read_text().splitlines()]
    reload, check = (next(int(one[0]) for one in given if what in one) for what in ("reload", "-t"))
    assert (reload, check) == (25, 10)
    unit = (Path(__file__).parents[3] / "agent/units/ktls-datapath.service").read_text()
    whole = int(unit.partition("TimeoutStartSec=")[2].split()[0])
    assert whole > TURN_WAIT_S + reload + 2 * check


def test_without_a_datapath_file_nothing_is_said(root: Path) -> None:
    assert off(root).returncode == 0
    assert "datapath" not in steps(root)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"test": "exit 1"}, "nginx -t fails: nginx.service goes on with kernel TLS"),
        ({"reload": "exit 1"}, "systemctl reload nginx.service failed"),
    ],
)
def test_what_fails_is_named_and_stays_owed(root: Path, broken: dict[str, Any], said: str) -> None:
    log = nginx(root, **broken)
    done = off(root)
    assert done.returncode == 0, "OFF is set all the same"
    assert "a later step failed: datapath" in done.stderr
    assert said in steps(root)["datapath"]
    assert ("reload" in log.read_text()) == ("reload" in broken)
    assert not (root / ON).exists(), "whatever starts next has no kernel TLS"
    assert (root / f"{ON}.off").exists()
    nginx(root)
    (root / ON).unlink()
    assert off(root).returncode == 0
    assert steps(root)["datapath"].startswith("ok removed")
    assert not (root / f"{ON}.off").exists()


def test_an_nginx_that_does_not_run_is_not_started(root: Path) -> None:
    log = nginx(root, active="exit 3")
    assert off(root).returncode == 0
    assert "does not run" in steps(root)["datapath"]
    assert "reload" not in log.read_text()
    assert not (root / f"{ON}.off").exists()


@pytest.mark.parametrize("flag", ["run/ktls/off", "run/ktls/lapsed", "var/lib/ktls/off"])
def test_the_path_unit_s_way_acts_while_a_flag_is_up(root: Path, flag: str) -> None:
    log = nginx(root)
    assert off(root, "--datapath").returncode == 0
    assert (root / ON).exists()
    assert not log.exists()
    (root / flag).touch()
    done = off(root, "--datapath")
    assert done.returncode == 0
    assert "datapath ok removed" in done.stdout
    assert not (root / ON).exists()
    assert log.read_text().count("reload") == 1
    assert not (root / "run/ktls/revert").exists(), "the record is that of whoever reverts"


def test_two_at_once_tell_nginx_once(root: Path) -> None:
    log = nginx(root, reload="sleep 1")
    (root / "run/ktls/off").touch()
    done: list[subprocess.CompletedProcess[str]] = []
    threads = [threading.Thread(target=lambda: done.append(off(root, "--datapath"))) for _ in range(2)]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()
    assert [one.returncode for one in done] == [0, 0]
    assert log.read_text().count("systemctl reload") == 1
    assert any("told meanwhile" in one.stdout or "no kernel TLS" in one.stdout for one in done)


def test_a_lease_that_is_over_leaves_the_reload_to_the_path_unit(root: Path) -> None:
    log = nginx(root)
    lease(root)
    done = off(root, "--lease")
    assert done.returncode == 0, done.stderr
    assert (root / "run/ktls/lapsed").exists()
    assert not (root / ON).exists()
    assert (root / f"{ON}.off").exists()
    assert "ktls-datapath.service reloads" in steps(root)["datapath"]
    assert not log.exists()
    assert off(root, "--datapath").returncode == 0
    assert log.read_text().count("systemctl reload") == 1
    assert not (root / f"{ON}.off").exists()


def test_a_boot_obeys_the_durable_flag_before_nginx_starts(root: Path) -> None:
    log = nginx(root)
    (root / "var/lib/ktls/off").touch()
    assert off(root, "--boot").returncode == 0
    assert not (root / ON).exists()
    assert not log.exists()


def test_a_boot_without_flag_and_lease_leaves_it(root: Path) -> None:
    nginx(root)
    assert off(root, "--boot").returncode == 0
    assert (root / ON).exists()


def test_a_boot_undoes_an_unconfirmed_order(root: Path) -> None:
    nginx(root)
    lease(root, "9999.00")
    assert off(root, "--boot").returncode == 0
    assert not (root / ON).exists()


def test_full_disk(tiny: Path, tmp_path: Path) -> None:
    (tiny / "run/ktls").mkdir(parents=True)
    (tiny / "var/lib/ktls").mkdir(parents=True)
    log = nginx(tiny, log=tmp_path / "calls.log")
    fill(tiny)
    done = off(tiny, "no block left")
    assert done.returncode == 0, done.stderr
    assert not (tiny / ON).exists()
    assert not (tiny / f"{ON}.off").exists()
    assert "systemctl reload" in log.read_text()


@pytest.mark.parametrize("text", ["", "kind=apache\n", "kind=nginx\non=relative\n"])
def test_a_datapath_file_that_makes_no_sense_fails_the_step_and_no_other(root: Path, text: str) -> None:
    write(root / "etc/ktls/datapath", text)
    done = off(root)
    assert done.returncode == 0
    assert "datapath" in done.stderr
    assert steps(root)["datapath"].startswith("failed ")
    assert steps(root)["tx"].startswith("ok ")
