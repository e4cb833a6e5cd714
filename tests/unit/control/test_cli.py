# SPDX-License-Identifier: Apache-2.0
"""The command line: one line for each mistake, the right exit status, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ktls_control.cli import main
from ktls_control.errors import ControlError
from ktls_control.inventory import load
from ktls_control.screen import note, size
from ktls_lab import api


@pytest.fixture
def hosts(tmp_path: Path) -> str:
    path = tmp_path / "hosts.yml"
    path.write_text("ktls_hosts:\n  hosts:\n    a:\n    b:\nnobody:\n  hosts: {}\n")
    return str(path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("status", "-i", "/nowhere"), "/nowhere: no such inventory"),
        (("off", "-i", "/nowhere"), "/nowhere: no such inventory"),
        (("status", "--group", "web"), "no group 'web'"),
        (("status", "--group", "nobody"), "no group 'nobody'"),
        (("rollout", "--phase", "warp"), "there is no phase 'warp'"),
        (("rollout", "--phase", "hw"), "phase hw needs a sentinel"),
        (("rollout", "--phase", "tx", "--waves", "/nowhere.yml"), "/nowhere.yml: no such file"),
        (("preflight", "--phase", "off"), "there is no phase 'off'"),
        (("status", "--limit", "zzz"), "zzz"),
    ],
)
def test_a_mistake_is_one_line(
    hosts: str, arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = arguments if "-i" in arguments else (*arguments, "-i", hosts)
    assert main(given) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ktls: ")
    assert says in err
    assert err.count("\n") == 1


def test_a_busy_lab_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def busy(**_wanted: object) -> None:
        raise api.LabError("lab 'demo' is in use: take it down with 'ktls lab down --name demo'")

    monkeypatch.setattr(api, "up", busy)
    assert main(["demo", "--output", str(tmp_path)]) == 1
    _out, err = capsys.readouterr()
    assert err == "ktls: lab 'demo' is in use: take it down with 'ktls lab down --name demo'\n"


def test_wrong_usage_exits_with_two() -> None:
    with pytest.raises(SystemExit) as caught:
        main(["rollout"])
    assert caught.value.code == 2


def test_json_errors_have_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "-i", "/nowhere", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "no_inventory"


def test_a_limit_narrows_the_group(hosts: str) -> None:
    assert [host.name for host in load(hosts)] == ["a", "b"]
    assert [host.name for host in load(hosts, limit="b")] == ["b"]


def test_an_inventory_that_ansible_cannot_read(tmp_path: Path) -> None:
    path = tmp_path / "lab"
    path.write_text("#!/bin/sh\necho 'no lab is running: ktls lab up' >&2; exit 1\n")
    path.chmod(0o755)
    with pytest.raises(ControlError, match="no lab is running: ktls lab up") as caught:
        load(str(path))
    assert caught.value.code == "bad_inventory"


def test_sizes_for_people() -> None:
    assert [size(count) for count in (0, 999, 1000, 72_200_000, 5e12)] == [
        "0 B",
        "999 B",
        "1.0 kB",
        "72.2 MB",
        "5.0 TB",
    ]


def test_notes_say_what_matters_most() -> None:
    assert note({"error": "x", "off": {"flag": True}}) == "x"
    assert "off flag is up (drill)" in note({"off": {"flag": True, "reason": "drill"}, "order": "pending"})
    assert note({"order": "pending", "lease_left_s": 41.6}) == "reverts in 42 s unless confirmed"
    assert note({"order": "reverted", "revert_reason": "lease_expired"}) == "lease_expired"
    assert note({"order": "committed"}) == ""
