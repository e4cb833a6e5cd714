# SPDX-License-Identifier: Apache-2.0
"""Metrics of a rollout in a file; promtool looks at them in tests/dashboards/test_rollout_metrics.py."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ktls_control.view.textfile import CATALOGUE, RolloutMetrics, file_name
from tests import journals

from .conftest import Stories

Key = tuple[str, frozenset[tuple[str, str]]]


def read(text: str) -> dict[Key, float]:
    return {
        (sample.name, frozenset((k, v) for k, v in sample.labels.items() if k != "fleet")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def fed(story: journals.Story, place: Path, count: int | None = None) -> dict[Key, float]:
    metrics = RolloutMetrics(place, story.plan)
    for event in story.journal.lines[:count]:
        metrics.feed(event)
    assert metrics.error is None
    return read((place / file_name(story.plan.fleet)).read_text())


def key(name: str, **labels: str) -> Key:
    return f"ktls_rollout_{name}", frozenset(labels.items())


def test_a_failed_run(stories: Stories, tmp_path: Path) -> None:
    found = fed(stories("failed"), tmp_path)
    assert found[key("state", state="failed")] == 1
    assert sum(value for (name, _labels), value in found.items() if name == "ktls_rollout_state") == 1
    assert found[key("hosts", state="reverted")] == 5
    assert found[key("hosts", state="unreachable")] == 1
    assert found[key("verdict", wave="2", metric="", outcome="fail")] == 1
    assert found[key("verdict", wave="2", metric="latency", outcome="fail")] == 1
    assert found[key("effect_ratio", wave="2", metric="latency", bound="low")] == pytest.approx(0.183)
    assert found[key("e_value", wave="2")] == pytest.approx(48.1)
    assert found[key("wave_duration_seconds", wave="2", kind="person")] == pytest.approx(171)
    assert found[key("wave_duration_seconds", wave="2", kind="absent")] == pytest.approx(140)
    assert found[key("rollback_seconds", wave="2")] == pytest.approx(3.4)
    assert key("lease_left_seconds") not in found


def test_the_e_value_of_a_soak_is_there_before_its_verdict(tmp_path: Path) -> None:
    story = journals.begin(tmp_path / "run", journals.plan_of([1, 2]))
    story.open(1)
    story.soak(1, 100, 2)
    assert key("e_value", wave="1") not in fed(story, tmp_path)
    story.interim(1, 0.62)
    found = fed(story, tmp_path)
    assert found[key("e_value", wave="1")] == pytest.approx(0.62)
    assert not [name for name, _labels in found if name == "ktls_rollout_verdict"], "it is not a verdict"


def test_a_run_under_way(stories: Stories, tmp_path: Path) -> None:
    found = fed(stories("soaking"), tmp_path)
    assert found[key("state", state="running")] == 1
    assert found[key("wave")] == 2
    assert found[key("lease_left_seconds")] == pytest.approx(870)
    assert key("ended_timestamp_seconds") not in found
    events = stories("completed").journal.lines
    waits = next(number for number, event in enumerate(events) if event["event"] == "waiting")
    assert fed(stories("completed"), tmp_path, waits + 1)[key("state", state="waiting")] == 1
    story = journals.begin(tmp_path / "frozen")
    story.journal.add("waiting", wave=1, on="freeze", until=story.journal.at + 60)
    assert fed(story, tmp_path)[key("state", state="frozen")] == 1


def test_every_name_is_in_the_catalogue_and_the_other_way_round(stories: Stories, tmp_path: Path) -> None:
    names = {name for story in ("failed", "soaking") for name, _labels in fed(stories(story), tmp_path)}
    # Those of phase hw are in tests/unit/control/rollout/test_hw_views.py.
    hw = {name for name, (_kind, what) in CATALOGUE.items() if what.startswith("Phase hw")}
    assert names == set(CATALOGUE) - hw


def test_single_hosts_do_not_write_the_file_a_thousand_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = journals.begin(tmp_path / "state", journals.plan_of([300]))
    story.open(1)
    metrics = RolloutMetrics(tmp_path, story.plan)
    writes: list[float] = []
    monkeypatch.setattr(metrics, "write", writes.append)
    for event in story.journal.lines:
        metrics.feed(event)
    assert len(writes) == 3


def test_a_directory_that_is_not_there_stops_nothing(stories: Stories, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    metrics = RolloutMetrics(tmp_path / "file")
    for event in stories("completed").journal.lines:
        metrics.feed(event)
    assert metrics.error is not None
    assert "cannot be written" in metrics.error


def test_odd_values_and_names(tmp_path: Path) -> None:
    story = journals.begin(tmp_path / "state")
    story.journal.lines[0]["fleet"] = '../we"ird\nfleet\\'
    story.open(1)
    metrics = RolloutMetrics(tmp_path / "out")
    verdict = {"outcome": "fail", "metrics": [], "e_value": math.inf, "hosts": {}}
    for event in story.journal.lines:
        metrics.feed(event)
    metrics.feed({"event": "verdict", "at": 9e9, "wave": 1, "outcome": "fail", "verdict": verdict, "recheck": {}})
    (written,) = (tmp_path / "out").iterdir()
    families = list(text_string_to_metric_families(written.read_text()))
    assert families[0].samples[0].labels["fleet"] == '../we"ird\nfleet\\'
    assert next(f for f in families if f.name == "ktls_rollout_e_value").samples[0].value == math.inf
    assert written.stat().st_mode & 0o777 == 0o644
