# SPDX-License-Identifier: Apache-2.0
"""The scenarios' runner, with a Molecule that is played."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.molecule import runner

PLAYED = """#!/bin/sh
echo "$KTLS_LAB $*" >> {log}
case " $* " in
*" ktls_bad "*) echo 'the reason'; exit 2 ;;
*" ktls_slow "*) echo $$ > {log}.pid; sleep 60 ;;
esac
"""


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was called; the tree is that of the test."""
    found = tmp_path / "calls"
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("molecule", "ktls"):
        (programs / name).write_text(PLAYED.format(log=found))
        (programs / name).chmod(0o755)
    monkeypatch.setattr(runner, "OUTPUT", tmp_path / "out")
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(sys, "executable", str(programs / "python"))
    return found


def test_each_scenario_has_a_lab_that_goes_down_whatever_happens(log: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner._all(["ktls_good", "ktls_bad"], 1) == 1
    calls = [line.split() for line in log.read_text().splitlines()]
    assert [call[0] for call in calls] == ["molecule-ktls-good"] * 3 + ["molecule-ktls-bad"] * 3
    assert [call[1:3] for call in calls if call[1] == "lab"] == [["lab", "down"]] * 4
    test = next(call for call in calls if "test" in call)
    assert test[1:] == [
        *("--base-config", str(runner.HERE / "config.yml"), "test", "--scenario-name", "ktls_good"),
        *("--destroy", "always"),
    ]
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("molecule: ktls_good passed in ")
    assert shown[1:3] == ["the reason", ""]
    assert shown[3].startswith("molecule: ktls_bad FAILED in ")
    assert shown[4].endswith("1 at a time: FAILED: ktls_bad")


def test_what_an_ended_run_left_is_forgotten(log: Path, tmp_path: Path) -> None:
    """Molecule keeps a state file, and skips creation when it says that the hosts are there."""
    state = [tmp_path / f"out/ansible/tmp/molecule.AbCd.{name}/state.yml" for name in ("ktls_good", "ktls_other")]
    for path in state:
        path.parent.mkdir(parents=True)
        path.write_text("created: true\n")
    assert runner._all(["ktls_good"], 1) == 0
    assert [path.exists() for path in state] == [False, True]


def test_who_ends_it_ends_what_runs(log: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.molecule import runner;"
        f" runner.OUTPUT = Path({str(tmp_path / 'out')!r}); sys.executable = {sys.executable!r};"
        " runner._all(['ktls_slow'], 1)"
    )
    child = subprocess.Popen([os.path.realpath("/proc/self/exe"), "-c", script], cwd=runner.ROOT)
    pid_file = Path(f"{log}.pid")
    deadline = time.monotonic() + 10
    while not (pid_file.exists() and pid_file.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    assert child.wait(timeout=10) == 130
    assert not Path(f"/proc/{pid_file.read_text().strip()}").exists()
    assert log.read_text().splitlines()[-1] == "molecule-ktls-slow lab down --name molecule-ktls-slow"


def test_steps_have_names_and_times() -> None:
    text = "".join(
        json.dumps({"playbook": playbook, "check": check, "took_s": took}) + "\n"
        for playbook, check, took in [
            *(("create", False, 7.0), ("converge", True, 3.0), ("converge", False, 9.4), ("converge", False, 2.0)),
            *(("converge", True, 1.6), ("verify", False, 1.0)),
        ]
    )
    found = runner.steps(text)
    assert [name for name, _ in found] == ["create", "check", "converge", "idempotence", "check", "verify"]
    line = runner.Outcome("ktls_host", True, 24.6, found).line
    assert line == (
        "molecule: ktls_host passed in 25 s (create 7, check 3, converge 9, idempotence 2, check 2, verify 1)"
    )


def test_a_scenario_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        runner.main(["ktls_nix"])
    assert ended.value.code == 2
    assert "no scenario ktls_nix: choose of " in capsys.readouterr().err
