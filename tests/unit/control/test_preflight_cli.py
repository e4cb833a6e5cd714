# SPDX-License-Identifier: Apache-2.0
"""``ktls preflight``: exit status, JSON, and what it asks the playbook for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ktls_control.cli import main
from ktls_control.playbook import PlaybookRun

from .test_preflight import info, reason
from .test_preflight_events import event

Asked = list[PlaybookRun]


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An inventory of two hosts, and a directory of its own for logs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hosts.yml").write_text("ktls_hosts:\n  hosts:\n    web1:\n    web2:\n")


def playbook(monkeypatch: pytest.MonkeyPatch, *told: dict[str, Any], status: int = 0) -> Asked:
    """Replace the run by its events; returns the runs that were asked for."""
    asked: Asked = []

    def events(run: PlaybookRun) -> Iterator[dict[str, Any]]:
        asked.append(run)
        run.log.parent.mkdir(parents=True, exist_ok=True)
        run.log.write_text("the last line of Ansible\n")
        yield from told
        run.returncode = status

    monkeypatch.setattr(PlaybookRun, "events", events)
    return asked


def ktls(*arguments: str) -> int:
    return main(["preflight", "-i", "hosts.yml", *arguments])


READY = (event("ok", "web1", info=info()), event("ok", "web2", info=info()))


def test_all_ready(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked = playbook(monkeypatch, *READY)
    assert ktls() == 0
    out = capsys.readouterr().out
    assert out.startswith("probing 2 hosts\n")
    assert out.endswith("\n2 of 2 hosts ready for tx\n")
    assert asked[0].verb == "preflight"
    assert asked[0].variables == {
        "ktls_group": "ktls_hosts",
        "ktls_phase": "tx",
        "ktls_preflight_load_module": True,
    }


def test_read_only_and_phase_reach_the_playbook(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = playbook(monkeypatch, *READY)
    assert ktls("--read-only", "--phase", "hw") == 0
    assert (asked[0].variables["ktls_preflight_load_module"], asked[0].variables["ktls_phase"]) == (False, "hw")


@pytest.mark.parametrize(
    "second",
    [
        event("ok", "web2", info=info("refused", reason("x"))),
        event("ok", "web2", info=info("unknown", reason("x"))),
        event("unreachable", "web2", msg="gone"),
        event("start", "web2"),
    ],
)
def test_anything_else_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], second: dict[str, Any]
) -> None:
    playbook(monkeypatch, READY[0], second, status=2)
    assert ktls() == 1
    out, err = capsys.readouterr()
    assert "1 of 2 hosts ready for tx" in out
    assert err == ""


def test_json_is_all_that_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    playbook(monkeypatch, READY[0], event("unreachable", "web2", msg="gone"), status=2)
    assert ktls("--json") == 1
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert (said["ready"], said["total"], said["hosts"]["web2"]["verdict"]) == (1, 2, "unknown")
    assert err == ""


def test_both_for_people_and_for_programs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    playbook(monkeypatch, *READY)
    assert ktls("-o", "fleet.json") == 0
    assert "2 of 2 hosts ready for tx" in capsys.readouterr().out
    assert json.loads((tmp_path / "fleet.json").read_text())["ready"] == 2


@pytest.mark.parametrize("output", ["nowhere/fleet.json", "."])
def test_a_file_that_cannot_be_written_is_said_before_any_host_is_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], output: str
) -> None:
    asked = playbook(monkeypatch, *READY)
    assert ktls("--json", "-o", output) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["code"] == "bad_output"
    assert err.count("\n") == 1
    assert asked == []


def test_where_to_look_when_a_host_did_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = playbook(monkeypatch, READY[0], event("ignored", "web2", msg="no python"), status=2)
    assert ktls() == 1
    assert capsys.readouterr().out.endswith(f"\nAnsible's own output is in {asked[0].log}\n")


@pytest.mark.parametrize(
    ("told", "status"), [((), 4), ((), 0), (READY, 2)], ids=["never asked", "nobody in the play", "failed after all"]
)
def test_a_run_that_failed_by_itself_is_never_all_ready(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], told: tuple[dict[str, Any], ...], status: int
) -> None:
    asked = playbook(monkeypatch, *told, status=status)
    assert ktls("--json") == 1
    out, err = capsys.readouterr()
    error = json.loads(out)["error"]
    assert error["code"] == "run_failed"
    assert str(asked[0].log) in error["message"]
    assert err == f"ktls: {error['message']}\n"


def test_a_row_for_each_host_of_a_large_fleet_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    names = [f"web{n}" for n in range(1, 31)]
    (tmp_path / "hosts.yml").write_text(json.dumps({"ktls_hosts": {"hosts": {key: {} for key in names}}}))
    told = tuple(event("ok", name, info=info()) for name in names)
    for arguments, rows in ((), 0), (("--hosts",), 30):
        with monkeypatch.context() as patched:
            playbook(patched, *told)
            assert ktls(*arguments) == 0
        said = capsys.readouterr().out.splitlines()
        assert sum(line.startswith("web") for line in said) == rows
