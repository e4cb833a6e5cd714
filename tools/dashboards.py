# SPDX-License-Identifier: Apache-2.0
"""Write dashboards/ktls-host.json and dashboards/ktls-fleet.json.

.venv/bin/python -m tools.dashboards
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tools.dashboard_fleet import FLEET
from tools.dashboard_host import HOST
from tools.dashboard_queries import NOTES
from tools.grafana import dashboard

ROOT = Path(__file__).resolve().parents[1]
PLACE = ROOT / "dashboards"


def made() -> dict[str, dict[str, Any]]:
    """Return every dashboard by its file's name."""
    return {
        "ktls-host.json": dashboard("ktls-host", "kTLS host", "Is kTLS on, does it help, does it harm.", HOST, NOTES),
        "ktls-fleet.json": dashboard("ktls-fleet", "kTLS fleet", "Every host at once.", FLEET, NOTES),
    }


def text(model: dict[str, Any]) -> str:
    """Return a dashboard as it is in its file."""
    return json.dumps(model, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name, model in made().items():
        (PLACE / name).write_text(text(model), encoding="utf-8")
