# SPDX-License-Identifier: Apache-2.0
"""Rules: promtool's own tests of them, and what each alert owes to who is woken by it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktls_agent.metrics.catalogue import METRICS
from tools import metrics_table

from .test_dashboards import PLACE, RULES, rules

TESTS = sorted((PLACE / "tests").glob("*.yml"))
DOCS = PLACE.parent / "docs" / "metrics.md"
ALERTS = [rule for rule in rules() if "alert" in rule]


def promtool(*arguments: str, cwd: Path = PLACE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], capture_output=True, text=True, cwd=cwd, check=False)


def test_promtool_accepts_the_rules() -> None:
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_rules_do_what_they_say(path: Path) -> None:
    done = promtool("test", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_firing_and_seen_silent() -> None:
    firing: set[str] = set()
    silent: set[str] = set()
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test.get("alert_rule_test", ()):
                (firing if case["exp_alerts"] else silent).add(case["alertname"])
                hosts = {alert["exp_labels"]["instance"] for alert in case["exp_alerts"]}
                there = set(re.findall(r'instance="(\w+)"', " ".join(s["series"] for s in test["input_series"])))
                if case["exp_alerts"] and there - hosts:
                    silent.add(case["alertname"])  # other hosts of the same test stay quiet
    names = {rule["alert"] for rule in ALERTS}
    assert firing == names
    assert silent == names


@pytest.mark.parametrize("rule", ALERTS, ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert "$labels.instance" in rule["annotations"]["summary"]
    assert rule["annotations"]["description"].endswith(".")
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert page.endswith("/docs/metrics.md")
    assert anchor == rule["alert"].lower()
    section = DOCS.read_text().partition(f"\n### {rule['alert']}\n")[2].partition("\n#")[0]
    assert len(section.split()) > 12, "the runbook says something"


def test_the_runbook_has_no_alert_that_is_gone() -> None:
    headings = set(re.findall(r"^### (Ktls\w+)$", DOCS.read_text(), re.MULTILINE))
    assert headings == {rule["alert"] for rule in ALERTS}


@pytest.mark.parametrize(
    ("good", "bad", "test"),
    [
        ('ratio_rate5m{direction="sent"} < 0.5', 'ratio_rate5m{direction="sent"} < 0.95', "effect"),
        ("or 0 * direction:ktls_bytes:rate5m", "", "effect"),
        ("[10m])) > 3", "[10m])) > 0", "effect"),
        ("ktls_off_flag) == 1", "ktls_off_flag) == 2", "state"),
        ("min by (job, instance) (ktls_flag_age_seconds)", "max by (job, instance) (ktls_flag_age_seconds)", "sight"),
    ],
)
def test_a_broken_rule_fails_its_test(tmp_path: Path, good: str, bad: str, test: str) -> None:
    text = RULES.read_text()
    assert text.count(good) == 1
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "t.yml").write_text((PLACE / "tests" / f"{test}.yml").read_text())
    (tmp_path / "ktls.rules.yml").write_text(text.replace(good, bad))
    assert promtool("test", "rules", "tests/t.yml", cwd=tmp_path).returncode != 0


def test_the_page_of_metrics_is_up_to_date() -> None:
    text = DOCS.read_text()
    assert metrics_table.page(text) == text, "run .venv/bin/python -m tools.metrics_table"
    for metric in METRICS:
        assert text.count(f"| `{metric.name}` |") == 1
