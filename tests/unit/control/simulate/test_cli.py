# SPDX-License-Identifier: Apache-2.0
"""``ktls simulate`` as it is typed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from ktls_control.cli import main
from ktls_control.plan import file
from ktls_control.plan.model import Hardware, Plan

from .plans import journal, plan
from .test_series import recorded


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Plan, Path]:
    path = tmp_path / "plan.yml"
    return file.save(plan(), path), path


def test_a_table_a_picture_and_json(
    saved: tuple[Plan, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "sim.png"
    arguments = [
        "simulate",
        str(saved[1]),
        "--regression",
        "cpu +15%",
        "--hosts",
        "2000",
        "--runs",
        "3",
        "--noise",
        "quiet",
    ]
    assert main([*arguments, "--plot", str(picture)]) == 0
    out = capsys.readouterr().out
    assert "2,000 simulated hosts in 4 waves" in out
    assert "a false stop" in out
    assert "requests/s" in out
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["hosts"] == sum(found["waves"]) == 2000
    assert found["with_regression"]["chances"]["stopped"]["share"] == 1.0
    assert found["with_regression"]["touched"]["median"] == 1
    assert found["plan_sha256"] == saved[0].sha256
    assert found["flag_endpoint"]["requests_per_s"] == pytest.approx(1000, rel=0.05)


def test_noise_from_recorded_series(
    saved: tuple[Plan, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "evidence"
    place.mkdir()
    for one in recorded():
        (place / f"wave-1-{one.host}.json").write_text(json.dumps(asdict(one)))
    assert main(["simulate", str(saved[1]), "--baseline", str(tmp_path), "--runs", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["without_regression"]["runs"] == 2
    assert main(["simulate", str(saved[1]), "--baseline", str(place), "--runs", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["noise"] == "evidence"


def test_a_real_run_beside_its_prediction(
    saved: tuple[Plan, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    events = journal(saved[0], order_s=42, judge_s=7, confirm_s=9)
    path = tmp_path / "journal.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in events) + '{"seq": 99, "at"')
    assert main(["simulate", str(saved[1]), "--against", str(path), "--pace-from", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [wave["hosts"] for wave in found["waves"]] == [1, 5, 25, 69]
    assert found["waves"][0]["off_by"] == pytest.approx(0, abs=0.01)
    assert main(["simulate", str(saved[1]), "--against", str(path)]) == 0
    assert "predicted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--regression", "cpu"], "bad_regression"),
        (["--regression", "cpu +8% on rack=mars"], "nobody"),
        (["--hosts", "2"], "bad_hosts"),
        (["--noise", "pink"], "bad_noise"),
        (["--runs", "0"], "bad_option"),
        (["--plot", "/nowhere/at/all.png"], "bad_output"),
        (["--baseline", "/nowhere"], "no_series"),
        (["--against", "/nowhere"], "no_journal"),
    ],
)
def test_mistakes_are_one_line(
    saved: tuple[Plan, Path], arguments: list[str], code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", str(saved[1]), "--runs", "1", "--json", *arguments]) == 1
    said = capsys.readouterr()
    assert json.loads(said.out)["error"]["code"] == code
    assert said.err.startswith("ktls: ")
    assert said.err.count("\n") == 1


def test_no_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(tmp_path / "none.yml")]) == 1
    assert "make one with `ktls plan" in capsys.readouterr().err


def test_a_plan_of_hw_is_simulated_like_any_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.yml"
    file.save(plan((1, 5), phase="hw", hardware=Hardware(("s1",))), path)
    assert main(["simulate", str(path), "--runs", "2", "--noise", "quiet"]) == 0
    assert "hw on 6 simulated hosts in 2 waves" in capsys.readouterr().out
