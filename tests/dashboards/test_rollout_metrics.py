# SPDX-License-Identifier: Apache-2.0
"""Metrics of a rollout and the alerts on them, as promtool sees them."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

from ktls_control.view.textfile import CATALOGUE, RolloutMetrics, file_name
from tests import journals

RULES = Path(__file__).parents[2] / "dashboards/ktls-rollout.rules.yml"


@pytest.mark.parametrize("name", ["completed", "failed", "soaking"])
def test_promtool_finds_nothing_to_complain_of(name: str, tmp_path: Path) -> None:
    story = getattr(journals, name)(tmp_path / "state")
    metrics = RolloutMetrics(tmp_path, story.plan)
    for event in story.journal.lines:
        metrics.feed(event)
    text = (tmp_path / file_name(story.plan.fleet)).read_text()
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("arguments", [("check", "rules", "--lint=all", "--lint-fatal", str(RULES)), ("test", "rules")])
def test_the_alerts_do_what_they_say(arguments: tuple[str, ...]) -> None:
    tests = () if arguments[0] == "check" else (str(Path(__file__).with_name("rollout.yml")),)
    done = subprocess.run(["promtool", *arguments, *tests], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_alerts_ask_for_metrics_that_there_are() -> None:
    rules = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    for rule in rules:
        assert set(re.findall(r"ktls_\w+", rule["expr"])) <= set(CATALOGUE)
    tested = yaml.safe_load(Path(__file__).with_name("rollout.yml").read_text())["tests"]
    cases = [case for test in tested for case in test["alert_rule_test"]]
    for alerts in (True, False):
        assert {case["alertname"] for case in cases if bool(case["exp_alerts"]) is alerts} == {
            r["alert"] for r in rules
        }
