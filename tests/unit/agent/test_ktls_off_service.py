# SPDX-License-Identifier: Apache-2.0
"""``ktls-off`` and a service: its drop-in goes, systemd is told, and the unit restarted if somebody consented."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path

import pytest

from ktls_host.service import settings
from tests.unit.agent.test_ktls_off import SHELLS, lease, off, steps, text, write
from tests.unit.agent.test_ktls_off import root as root

UNIT = "web.service"
DROP_IN = f"etc/systemd/system/{UNIT}.d/zz-ktls-fleet-openssl.conf"
RELOAD, ACTIVE, RESTART = "daemon-reload", f"is-active --quiet {UNIT}", f"restart {UNIT}"


def prepare(root: Path, *, consent: bool = True, fails: str = "none", there: bool = True) -> Path:
    """A host whose service is switched on. ``fails``: the systemctl verb that does. Returns systemctl's log."""
    given = {"unit": UNIT, "backend": "openssl", "restart_ok": consent}
    write(root / "etc/ktls/datapath", settings.for_shell(given).decode())
    if there:
        write(root / DROP_IN, "[Service]\n")
    write(root / "run/ktls-levers.lock", "")
    log = root / "systemctl.log"
    body = f'#!/bin/sh\necho "$@" >>{log}\n[ "$1" != {fails} ]\n'
    write(root / "sbin/systemctl", body, 0o755)
    return log


def said(root: Path) -> str:
    return steps(root)["datapath"]


def left(root: Path) -> list[str]:
    return sorted(path.name for path in (root / DROP_IN).parent.glob("*"))


@pytest.mark.parametrize("shell", SHELLS)
def test_by_consent_it_is_restarted(root: Path, shell: str) -> None:
    log = prepare(root)
    done = off(root, "why", shell=shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert log.read_text().splitlines() == [RELOAD, ACTIVE, RESTART]
    assert said(root) == f"ok removed {root}/{DROP_IN}, restarted {UNIT}"
    assert left(root) == []
    off(root, "again", shell=shell)
    assert log.read_text().splitlines() == [RELOAD, ACTIVE, RESTART], "no second restart"
    assert said(root) == f"ok no configuration of ours has kernel TLS for {UNIT}"


@pytest.mark.parametrize("shell", SHELLS)
def test_without_consent_what_runs_on_is_named(root: Path, shell: str) -> None:
    log = prepare(root, consent=False)
    done = off(root, shell=shell)
    assert done.returncode == 0
    assert "a later step failed: datapath" in done.stderr
    assert log.read_text().splitlines() == [RELOAD, ACTIVE]
    assert "runs on with kernel TLS until it is restarted" in said(root)
    assert left(root) == []
    assert (root / "run/ktls/off").exists()


def test_one_that_does_not_run_is_not_started(root: Path) -> None:
    log = prepare(root, fails="is-active")
    off(root)
    assert log.read_text().splitlines() == [RELOAD, ACTIVE]
    assert said(root).startswith("ok removed ")
    assert left(root) == []


@pytest.mark.parametrize(("fails", "word"), [("daemon-reload", "would have kernel TLS again"), ("restart", "look at")])
def test_what_failed_is_owed_and_tried_again(root: Path, fails: str, word: str) -> None:
    log = prepare(root, fails=fails)
    off(root)
    assert said(root).startswith("failed removed ")
    assert word in said(root)
    assert left(root) == [f"{Path(DROP_IN).name}.off"]
    prepare(root, there=False)
    log.unlink()
    off(root)
    assert log.read_text().splitlines() == [RELOAD, ACTIVE, RESTART]
    assert left(root) == []


def test_a_flag_alone_does_it_by_the_path_unit(root: Path) -> None:
    """Without a flag nothing; with one that somebody else raised, this step and no other."""
    log = prepare(root)
    assert off(root, "--datapath").returncode == 0
    assert not log.exists()
    write(root / "run/ktls/lapsed", "")
    done = off(root, "--datapath")
    assert (done.returncode, log.read_text().splitlines()) == (0, [RELOAD, ACTIVE, RESTART])
    assert not (root / "run/ktls/off").exists()
    assert not (root / "run/ktls/revert").exists()
    assert "restarted" in done.stdout


def test_a_lease_leaves_systemd_to_the_path_unit(root: Path) -> None:
    log = prepare(root)
    lease(root)
    done = off(root, "--lease")
    assert done.returncode == 0, done.stderr
    assert not log.exists()
    assert left(root) == [f"{Path(DROP_IN).name}.off"]
    assert said(root).startswith("ok removed ")
    assert off(root, "--datapath").returncode == 0
    assert log.read_text().splitlines() == [RELOAD, ACTIVE, RESTART]


@pytest.mark.parametrize("flag", ["var/lib/ktls/off", None])
def test_at_boot_it_is_gone_before_the_unit_starts(root: Path, flag: str | None) -> None:
    """By a flag that outlived the boot, or because nobody confirmed the order."""
    log = prepare(root)
    if flag:
        write(root / flag, "")
    else:
        lease(root)
    done = off(root, "--boot")
    assert done.returncode == 0, done.stderr
    assert log.read_text().splitlines() == [RELOAD]
    assert left(root) == []


def test_at_boot_without_flag_and_lease_it_stays(root: Path) -> None:
    log = prepare(root)
    off(root, "--boot")
    assert not log.exists()
    assert left(root) == [Path(DROP_IN).name]


def test_it_waits_for_whoever_holds_the_lock_of_the_levers_and_not_for_ever(root: Path) -> None:
    """The agent's helper is at the same: when it is done there is nothing left, and no second restart."""
    log = prepare(root)
    with open(root / "run/ktls-levers.lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def helper() -> None:
            time.sleep(1)
            os.unlink(root / DROP_IN)
            fcntl.flock(lock, fcntl.LOCK_UN)

        thread = threading.Thread(target=helper)
        thread.start()
        off(root)
        thread.join()
    assert text(log) == ""
    assert said(root).endswith("by now")


def test_a_description_of_another_kind_is_a_failure(root: Path) -> None:
    prepare(root)
    write(root / "etc/ktls/datapath", "kind=service\nunit=x\n")
    off(root)
    assert "names no file" in said(root)
