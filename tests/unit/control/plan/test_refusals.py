# SPDX-License-Identifier: Apache-2.0
"""docs/diagnostics.md explains every code that a plan gives, and no code that is gone; every drill entry is believed
only as far as it can be read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from ktls_control.errors import ControlError
from ktls_control.plan import drills
from ktls_control.plan.drills import Drill
from ktls_control.plan.refusals import CURES

ROOT = Path(__file__).parents[4]
TEXT = (ROOT / "docs/diagnostics.md").read_text()


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_every_refusal_is_explained() -> None:
    assert set(re.findall(r"^\| `(\w+)` \|", section("Hosts that a plan leaves out"), re.MULTILINE)) == set(CURES)


def test_every_error_of_a_plan_is_in_the_table() -> None:
    found: set[str] = set()
    for path in (ROOT / "control/ktls_control/plan").glob("*.py"):
        found |= set(re.findall(r'ControlError\(\s*"([a-z_]+)"', path.read_text()))
    told = set(re.findall(r"`([a-z0-9_]+)`", section("Requests that are refused before any host is touched")))
    assert {"bad_policy", "plan_edited"} <= found
    assert found - told == set()


def test_drills_on_record(tmp_path: Path) -> None:
    assert drills.load(tmp_path) == {}
    record = {
        "web1": {"at": 5, "passed": True, "host": {"kernel": "6.12", "openssl": "3.5"}, "left": None},
        "web2": {"at": 6.5, "passed": False, "detail": "files differ"},
        "web3": {"passed": True},
        "web4": "ok",
        "web5": {"at": 7, "passed": "yes"},
    }
    (tmp_path / "drills.json").write_text(json.dumps({"schema": 1, "hosts": record}))
    assert drills.load(tmp_path) == {
        "web1": Drill(5.0, True, "", "6.12", "3.5"),
        "web2": Drill(6.5, False, "files differ"),
        "web5": Drill(7.0, False),
    }


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"hosts": []}'])
def test_a_record_that_is_broken_is_said_to_be(tmp_path: Path, text: str) -> None:
    (tmp_path / "drills.json").write_text(text)
    with pytest.raises(ControlError, match="drill again") as caught:
        drills.load(tmp_path)
    assert caught.value.code == "bad_drills"
