# SPDX-License-Identifier: Apache-2.0
"""What operators see of a rollout of ``hw``: made from journals that the engine itself has written."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ktls_control import rollout_cli
from ktls_control.plan import file as plan_file
from ktls_control.report_run import write_report
from ktls_control.rollout.state import fold
from ktls_control.view.changes import Changes
from ktls_control.view.textfile import CATALOGUE, RolloutMetrics, file_name
from ktls_control.view.tree import View, lines

from .driver import events_of, world_of
from .test_hw import ALONE, hw_plan


@pytest.fixture
def leaked(state_dir: Path) -> tuple[Path, list[dict[str, object]]]:
    """A run whose second wave was watched when plaintext came; its directory and its events."""
    plan = hw_plan((1, 2))
    world = world_of(state_dir, plan)
    opened: list[str] = []

    def on_event(name: str) -> None:
        opened.append(name)
        if name == "observed" and opened.count("wave_opened") == 2:
            world.sentinel.sight = "leak"

    world.on_event = on_event
    assert "plaintext on the wire" in world.playbook(plan)
    return world.fleet(plan).newest().directory, events_of(world, plan)


def drawn(run: Path, events: list[dict[str, object]]) -> str:
    view = View(fold(events), plan_file.load(run / "plan.yml"), float(str(events[-1]["at"])), details=True)
    return "\n".join(line.plain for line in lines(view, 200))


def test_the_tree_shows_card_and_sentinel_while_a_wave_soaks(leaked: tuple[Path, list[dict[str, object]]]) -> None:
    run, events = leaked
    first = next(place for place, event in enumerate(events) if event["event"] == "verdict")
    text = drawn(run, events[: first + 1])
    assert "sentinel clean" in text
    assert "card 3.0 MB of 3.0 MB · 0.0% in software" in text or ("card " in text and "% in software" in text), text
    text = drawn(run, events)
    assert "plaintext on the wire: it is leak: all 3 hosts of the fleet are off" in text
    assert "sentinel leak: it is leak" in text


def test_the_log_says_each_change_of_sight_once(leaked: tuple[Path, list[dict[str, object]]]) -> None:
    changes = Changes()
    told = [line for event in leaked[1] for line in changes.feed(event)]
    assert told.count("wave 1 sentinel clean: it is clean") == 1
    assert told.count("wave 2 sentinel leak: it is leak") == 1
    assert "run off by sentinel: it is leak" in told
    assert "plaintext on the wire: it is leak: all 3 hosts of the fleet are off" in told


def test_metrics_of_cards_and_sentinel(leaked: tuple[Path, list[dict[str, object]]], tmp_path: Path) -> None:
    run, events = leaked
    metrics = RolloutMetrics(tmp_path, plan_file.load(run / "plan.yml"))
    for event in events:
        metrics.feed(event)
    found = {
        (sample.name, sample.labels.get("wave"), sample.labels.get("sight")): sample.value
        for family in text_string_to_metric_families((tmp_path / file_name("fleet")).read_text())
        for sample in family.samples
    }
    assert (found["ktls_rollout_sentinel", "2", "leak"], found["ktls_rollout_sentinel", "1", "clean"]) == (1, 1)
    assert found["ktls_rollout_card_ratio", "1", None] == pytest.approx(1.01)
    assert found["ktls_rollout_fallback_ratio", "1", None] == 0
    assert found["ktls_rollout_stale_connections", "1", None] == 0
    assert {name for name, _wave, _sight in found} <= set(CATALOGUE)


def test_the_report_has_it_all(leaked: tuple[Path, list[dict[str, object]]]) -> None:
    page = write_report(leaked[0]).read_text()
    for words in (
        "Network cards",
        "eth1 (mlx5_core)",
        "TLS 1.2 consented to",
        "3 of 3 hosts",
        "all 3 hosts of the fleet",
    ):
        assert words in page, words


def test_without_a_sentinel_plan_report_and_screen_say_so(state_dir: Path) -> None:
    plan = hw_plan((1,), hardware=ALONE)
    world = world_of(state_dir, plan)
    world.sentinel.sight = world.sentinel.armed = "none"
    assert world.playbook(plan) == "ok"
    run = world.fleet(plan).newest().directory
    assert "none: --without-sentinel" in write_report(run).read_text()
    assert "no sentinel" in drawn(run, events_of(world, plan))


def test_explain_tells_of_one_host(
    leaked: tuple[Path, list[dict[str, object]]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = argparse.Namespace(host="h1", run=str(leaked[0]), json=False)
    assert rollout_cli._explain(arguments) == 0
    out = capsys.readouterr().out
    assert "switched off, with the whole fleet: it is leak" in out
    assert "sentinel, " in out and "card: card " in out
