# SPDX-License-Identifier: Apache-2.0
"""Dashboards: what Grafana wants of the JSON, expressions that parse, and no metric that nobody exposes."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from ktls_agent.metrics.catalogue import CATALOGUE
from tools import dashboards

PLACE = Path(__file__).parents[2] / "dashboards"
FILES = sorted(PLACE.glob("*.json"))
RULES = PLACE / "ktls.rules.yml"
Json = dict[str, Any]

_WORDS = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def load(path: Path) -> Json:
    model: Json = json.loads(path.read_text())
    return model


def expressions(model: Json) -> Iterator[tuple[str, str]]:
    """Every PromQL expression with where it stands."""
    for panel in model["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for note in model["annotations"]["list"]:
        yield note["name"], note["expr"]


def filled_in(expr: str) -> str:
    """``expr`` with Grafana's variables replaced, as Grafana does."""
    for name, value in {"$__rate_interval": "1m", "$job": ".*", "$instance": ".*"}.items():
        expr = expr.replace(name, value)
    assert "$" not in expr, expr
    return expr


def metrics(expr: str) -> set[str]:
    """Names of series in ``expr``: words with ktls in them, outside of strings."""
    return {word for word in _WORDS.findall(re.sub(r'"[^"]*"', "", expr)) if "ktls" in word}


def labels_used(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Metrics of our own with the labels that their selectors name."""
    for name, inside in re.findall(r"(ktls_\w+)\{([^}]*)\}", expr):
        yield name, set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", inside))


def series() -> set[str]:
    """Every name that a query may use: the catalogue, series of its histograms, and what the rules record."""
    names = set(CATALOGUE)
    for metric in CATALOGUE.values():
        if metric.kind == "histogram":
            names |= {f"{metric.name}{suffix}" for suffix in ("_bucket", "_sum", "_count")}
    return names | {rule["record"] for rule in rules() if "record" in rule}


def rules() -> list[Json]:
    groups: list[Json] = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_both_are_there() -> None:
    assert [path.name for path in FILES] == ["ktls-fleet.json", "ktls-host.json"]


def test_files_are_what_the_tool_makes() -> None:
    for name, model in dashboards.made().items():
        text = (PLACE / name).read_text()
        assert text == dashboards.text(model), f"{name}: run .venv/bin/python -m tools.dashboards"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_grafana_gets_what_it_wants(path: Path) -> None:
    model = load(path)
    assert model["uid"] == path.stem
    assert model["schemaVersion"] >= 39
    assert [variable["name"] for variable in model["templating"]["list"]] == ["datasource", "job", "instance"]
    assert model["templating"]["list"][0]["type"] == "datasource"
    ids = [panel["id"] for panel in model["panels"]]
    assert len(ids) == len(set(ids))
    for panel in model["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["targets"], panel["title"]
        for source in (panel["datasource"], *(target["datasource"] for target in panel["targets"])):
            assert source == {"type": "prometheus", "uid": "${datasource}"}
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs))
    assert model["annotations"]["list"]
    assert all(note["datasource"]["uid"] == "${datasource}" for note in model["annotations"]["list"])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_panels_do_not_overlap(path: Path) -> None:
    grids = [(panel["title"], panel["gridPos"]) for panel in load(path)["panels"]]
    for title, grid in grids:
        assert grid["x"] >= 0, title
        assert grid["x"] + grid["w"] <= 24, title
        assert grid["h"] > 0, title
    for (one, a), (two, b) in combinations(grids, 2):
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, f"{one} and {two}"


@pytest.mark.parametrize("path", [*FILES, RULES], ids=lambda path: path.stem)
def test_every_metric_and_label_exists(path: Path) -> None:
    found = list(expressions(load(path))) if path != RULES else [(str(rule), rule["expr"]) for rule in rules()]
    assert found
    known = series()
    for where, expr in found:
        used = metrics(expr)
        assert used <= known, f"{where}: {used - known}"
        for name, labels in labels_used(expr):
            base = re.sub(r"_(bucket|sum|count)$", "", name)
            metric = CATALOGUE.get(name) or CATALOGUE[base]
            assert labels <= {*metric.labels, "job", "instance", "le"}, f"{where}: {name} {labels}"


def test_a_misspelt_metric_would_be_found() -> None:
    assert metrics('sum by (x) (rate(ktls_byte_total{process="ktls_bytes_total"}[5m]))') - series() == {
        "ktls_byte_total"
    }
    assert dict(labels_used('ktls_bytes_total{proces=~"a",x!="b"}')) == {"ktls_bytes_total": {"proces", "x"}}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_expression_parses(path: Path, tmp_path: Path) -> None:
    group = [
        {"record": f"test:x{index}", "expr": filled_in(expr)} for index, (_, expr) in enumerate(expressions(load(path)))
    ]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": group}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_variables_are_asked_for_by_what_they_stand_for(path: Path) -> None:
    for where, expr in expressions(load(path)):
        if "up{" not in expr:
            assert 'instance=~"$instance"' in expr, where
        assert 'job=~"$job"' in expr, where
