# SPDX-License-Identifier: Apache-2.0
"""Grafana's dashboard JSON from a few words: panels laid out in rows of 24 columns, each with an id of its own.

Source: https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SCHEMA_VERSION = 39
COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, RED, BLUE = "green", "yellow", "red", "blue"


@dataclass(frozen=True)
class Query:
    """One PromQL expression and its legend. ``table``: the instant values, as a table."""

    expr: str
    legend: str = ""
    table: bool = False
    heatmap: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel; ``width`` and ``height`` in Grafana's grid units."""

    title: str
    kind: str
    queries: Sequence[Query]
    width: int = 8
    height: int = 8
    unit: str = "short"
    text: str = ""
    maximum: float | None = None
    minimum: float | None = 0
    stack: bool = False
    steps: Sequence[tuple[float | None, str]] = ((None, BLUE),)
    words: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """What is shown for a value: a word and its colour."""
    transformations: Sequence[Mapping[str, Any]] = ()
    text_mode: str = "auto"


@dataclass(frozen=True)
class Row:
    """A heading, and panels from left to right."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True)
class Annotation:
    """A mark on every graph where ``expr`` has a value."""

    name: str
    expr: str
    title: str
    color: str


def dashboard(uid: str, title: str, text: str, rows: Iterable[Row], notes: Iterable[Annotation]) -> dict[str, Any]:
    """Return the JSON model of a dashboard."""
    return {
        "uid": uid,
        "title": title,
        "description": text,
        "tags": ["ktls"],
        "schemaVersion": SCHEMA_VERSION,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "time": {"from": "now-3h", "to": "now"},
        "refresh": "30s",
        "timezone": "browser",
        "links": [
            {"type": "dashboards", "tags": ["ktls"], "title": "kTLS", "asDropdown": False, "includeVars": True,
             "keepTime": True, "targetBlank": False, "icon": "external link", "tooltip": "", "url": ""},
        ],
        "templating": {"list": _variables()},
        "annotations": {"list": [_note(note) for note in notes]},
        "panels": _laid_out(rows),
    }  # fmt: skip


def _variables() -> list[dict[str, Any]]:
    source = {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus", "hide": 0}
    return [{**source, "refresh": 1, "regex": "", "multi": False, "includeAll": False, "options": [], "current": {}}, *(
        {
            "name": name, "label": label, "type": "query", "datasource": SOURCE, "definition": query,
            "query": {"query": query, "refId": name}, "refresh": 2, "sort": 1, "regex": "", "hide": 0,
            "multi": True, "includeAll": True, "allValue": ".*", "options": [],
            "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        }
        for name, label, query in (
            ("job", "Job", "label_values(ktls_build_info, job)"),
            ("instance", "Host", 'label_values(ktls_build_info{job=~"$job"}, instance)'),
        )
    )]  # fmt: skip


def _note(note: Annotation) -> dict[str, Any]:
    return {
        "name": note.name, "datasource": SOURCE, "enable": True, "hide": False, "iconColor": note.color,
        "expr": note.expr, "step": "30s", "titleFormat": note.title, "textFormat": "{{instance}}",
        "tagKeys": "instance", "useValueForTime": False,
    }  # fmt: skip


def _laid_out(rows: Iterable[Row]) -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = []
    top = 0
    for row in rows:
        grid = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "panels": [],
                "gridPos": grid,
            }
        )
        top += 1
        left = highest = 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, highest = top + highest, 0, 0
            grid = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            panels.append({"id": len(panels) + 1, "gridPos": grid, **_panel(panel)})
            left, highest = left + panel.width, max(highest, panel.height)
        top += highest
    return panels


def _panel(panel: Panel) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "unit": panel.unit,
        "thresholds": {
            "mode": "absolute",
            "steps": [{"value": value, "color": color} for value, color in panel.steps],
        },
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "mappings": _mappings(panel.words),
        "custom": _custom(panel),
    }
    if panel.minimum is not None and panel.kind != "table":
        defaults["min"] = panel.minimum
    if panel.maximum is not None:
        defaults["max"] = panel.maximum
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.text,
        "datasource": SOURCE,
        "targets": [_target(index, query) for index, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "options": _options(panel),
        "transformations": [dict(step) for step in panel.transformations],
    }


def _target(index: int, query: Query) -> dict[str, Any]:
    form = "table" if query.table else "heatmap" if query.heatmap else "time_series"
    return {
        "refId": chr(ord("A") + index),
        "datasource": SOURCE,
        "expr": query.expr,
        "legendFormat": query.legend or "__auto",
        "format": form,
        "instant": query.table,
        "range": not query.table,
    }


def _mappings(words: Mapping[str, tuple[str, str]]) -> list[dict[str, Any]]:
    if not words:
        return []
    options = {
        value: {"text": text, "color": color, "index": index}
        for index, (value, (text, color)) in enumerate(words.items())
    }
    return [{"type": "value", "options": options}]


def _custom(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        return {
            "drawStyle": "line", "lineWidth": 1, "fillOpacity": 30 if panel.stack else 5, "showPoints": "never",
            "spanNulls": False, "stacking": {"mode": "normal" if panel.stack else "none", "group": "A"},
        }  # fmt: skip
    if panel.kind == "state-timeline":
        return {"fillOpacity": 70, "lineWidth": 0}
    return {}


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "timeseries":
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if panel.kind == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False}, "colorMode": "background",
            "graphMode": "none", "justifyMode": "auto", "orientation": "auto", "textMode": panel.text_mode,
        }  # fmt: skip
    if panel.kind == "state-timeline":
        return {
            "showValue": "never", "mergeValues": True, "rowHeight": 0.8, "alignValue": "left",
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True}, "tooltip": {"mode": "single"},
        }  # fmt: skip
    if panel.kind == "heatmap":
        return {
            "calculate": False, "yAxis": {"unit": panel.unit, "axisPlacement": "left"}, "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Oranges", "steps": 64, "exponent": 0.5, "fill": "dark-orange"},
            "legend": {"show": True}, "tooltip": {"mode": "single", "yHistogram": False},
            "rowsFrame": {"layout": "auto"}, "filterValues": {"le": 1e-9},
        }  # fmt: skip
    return {"showHeader": True, "cellHeight": "sm"}
