# SPDX-License-Identifier: Apache-2.0
"""``ktls judge --replay``: files of every kind, and whatever else lies in their place."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ktls_control.cli import main
from ktls_control.errors import ControlError
from ktls_control.judge import record, wire
from ktls_control.judge.regimes import Harm
from ktls_control.judge.wave import judge_wave
from ktls_control.plan import file as plan_file
from ktls_control.plan.model import Gates, Plan, Soak, Wave

from .waves import each, judge, wave

SOAK = {"min_s": 600, "max_s": 900, "min_bytes": 1}


def _write(path: Path, **more: Any) -> Path:
    hosts = more.pop("hosts", None) or wave()
    path.write_text(json.dumps({"soak": SOAK, "series": [asdict(one) for one in hosts], **more}))
    return path


def test_a_replayed_wave_is_judged_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _write(tmp_path / "wave.json")
    assert main(["judge", "--replay", str(path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads(json.dumps(asdict(judge(wave()))))
    assert main(["judge", "--replay", str(path)]) == 0
    text = capsys.readouterr().out
    for word in ("verdict: PASS", "cpu", "latency", "throughput", "E-value", "pairs of blocks"):
        assert word in text


def test_exit_status_says_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", "--replay", str(_write(tmp_path / "bad.json", hosts=wave(Harm(cpu=1.3))))]) == 1
    assert main(["judge", "--replay", str(_write(tmp_path / "short.json", hosts=wave(soak_s=60.0)))]) == 3
    assert main(["judge", "--replay", str(tmp_path / "none.json")]) == 2
    captured = capsys.readouterr()
    assert "cpu: worse by" in captured.out and "verdict: INCONCLUSIVE" in captured.out
    assert captured.err == f"ktls: {tmp_path}/none.json: No such file or directory\n"
    assert main(["judge", "--replay", str(tmp_path / "none.json"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "no_series"


def test_columns_are_read_like_rows(tmp_path: Path) -> None:
    hosts = wave()
    rows = record.load(_write(tmp_path / "rows.json")).series
    thin = []
    for one in hosts:
        fields = asdict(one)
        fields["samples"] = {key: [sample[key] for sample in fields["samples"]] for key in fields["samples"][0]}
        thin.append(fields)
    (tmp_path / "columns.json").write_text(json.dumps({"series": thin}))
    assert record.load(tmp_path / "columns.json").series == rows == tuple(hosts)


def test_an_agents_answer_is_read_too(tmp_path: Path) -> None:
    host = each(wave()[0], lambda sample: replace(sample, block=None, at_s=round(sample.at_s, 3)))
    said = wire.encode(host, wall_s=1e9)
    for name, content in (("answer", {"ok": True, "series": said}), ("series", said), ("many", {"series": [said]})):
        (tmp_path / name).write_text(json.dumps(content))
        (read,) = record.load(tmp_path / name).series
        assert (read.samples[7].sent, read.ordered_at_s, read.skew_s) == (host.samples[7].sent, host.ordered_at_s, 0.0)
        assert len(read.samples) == len(host.samples)
    del said["samples"]["ms"]
    (tmp_path / "bad").write_text(json.dumps(said))
    with pytest.raises(ControlError, match="cannot be used"):
        record.load(tmp_path / "bad")


def test_a_runs_evidence_is_judged_by_its_plan(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "evidence").mkdir(parents=True)
    first, second = wave(seed=1), wave(seed=2)
    for number, hosts in ((1, first), (2, second)):
        for one in hosts:
            (run / "evidence" / f"wave-{number}-{one.host}.json").write_text(json.dumps(asdict(one)))
    waves = tuple(Wave(n, f"wave{n}", ("host1", "host2"), Soak(600, 600 + n, min_bytes=1)) for n in (1, 2))
    gates = Gates(cpu_margin=0.04)
    plan = Plan(1, "p1", "", "tx", "", "", None, "", 0, 60.0, 0, {}, {}, waves, gates)
    plan_file.save(plan, run / "plan.yml")
    last = record.load(run)
    assert (last.gates, last.soak, last.series, last.others) == (gates, waves[1].soak, tuple(second), ())
    earlier = record.load(run / "evidence", 1)
    assert earlier.series == tuple(first)
    # Hosts of the later wave are controls as they were before their own order.
    assert all(one.ordered_at_s is None and len(one.samples) == 240 for one in earlier.others)
    assert main(["judge", "--replay", str(run), "--wave", "1"]) == 0
    with pytest.raises(ControlError, match="no evidence of wave 7; there is of 1, 2"):
        record.load(run, 7)


@pytest.mark.parametrize("name", ["picture.png", "picture.svg"])
def test_it_draws(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / "wave.json")
    assert main(["judge", "--replay", str(path), "--plot", str(tmp_path / name)]) == 0
    head = (tmp_path / name).read_bytes()[:100]
    assert head.startswith(b"\x89PNG") if name.endswith("png") else b"<?xml" in head


def test_it_draws_what_cannot_be_judged_too(tmp_path: Path) -> None:
    (tmp_path / "none.json").write_text('{"series": [{"host": "a", "samples": []}]}')
    assert main(["judge", "--replay", str(tmp_path / "none.json"), "--plot", str(tmp_path / "a.png")]) == 3
    assert main(["judge", "--replay", str(tmp_path / "none.json"), "--plot", str(tmp_path / "a.gif")]) == 2
    assert main(["judge", "--replay", str(tmp_path / "none.json"), "--plot", str(tmp_path / "no" / "a.png")]) == 2


BAD = [
    "",
    "{",
    "null",
    "[]",
    "7",
    '"text"',
    '{"series": 5}',
    '{"series": [5]}',
    '{"series": [{}]}',
    '{"series": [{"samples": [5]}]}',
    '{"series": [{"samples": [{"at_s": "x", "seconds": 5}]}]}',
    '{"series": [{"samples": [{"at_s": 1, "seconds": 5, "arm": "sideways"}]}]}',
    '{"series": [{"samples": [{"at_s": 1, "seconds": 5, "sent": 1e99}]}]}',
    '{"series": [{"samples": [{"at_s": 1, "seconds": 5, "errors": 4}]}]}',
    '{"series": [{"samples": {"at_s": [1, 2], "seconds": [5]}}]}',
    '{"series": [{"samples": [], "arms": {"on": 3}}]}',
    '{"series": [], "gates": {"alpha": 0}}',
    '{"series": [], "gates": {"alpha": "x"}}',
    '{"series": [], "gates": {"block_s": 5, "washout_s": 5}}',
    '{"series": [], "gates": {"colour": 5}}',
    '{"series": [], "gates": {"method": "luck"}}',
    '{"series": [], "soak": {"min_s": 5}}',
    '{"series": [], "host_checks": {"a": {"checks": [{"outcome": "perhaps"}]}}}',
    "[" * 100_000,
    '{"series": [{"samples": [{"at_s": ' + "9" * 400 + "}]}]}",
]


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_garbage_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert main(["judge", "--replay", str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"ktls: {path}: ") and captured.err.count("\n") == 1
    assert len(captured.err) < 500


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(bytes(range(256)))
    assert main(["judge", "--replay", str(path)]) == 2
    assert main(["judge", "--replay", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 2


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    ["series", "others", "gates", "soak", "samples", "host", "host_checks", "at_s", "seconds", "arms"]
)


@settings(max_examples=100)
@given(st.dictionaries(_KEYS, _JSON | st.lists(st.dictionaries(_KEYS, _JSON, max_size=4), max_size=2), max_size=5))
def test_no_file_makes_it_stumble(tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(data))
    try:
        wave = record.load(path)
    except ControlError as error:
        assert "\n" not in error.message
        return
    found = judge_wave(wave.phase, wave.gates, wave.series, wave.others, wave.host_checks, wave.soak)
    assert found.outcome in ("fail", "inconclusive")
