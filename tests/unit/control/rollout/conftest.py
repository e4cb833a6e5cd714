# SPDX-License-Identifier: Apache-2.0
"""Runs of the unit tests are kept in their own directory."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ktls_control.rollout import lock


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the state directory, empty, that everything here uses."""
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("KTLS_OPERATOR", "ada@control1")
    # Nobody cuts the power here, and a busy disk would make hundreds of runs slow.
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    # The lock has tests of its own; its holder is a process.
    monkeypatch.setattr(lock, "take", _take)
    monkeypatch.setattr(lock, "release", lambda _path, _pid: None)
    return tmp_path / "state"


def _take(path: Path, *, operator: str, run: str, pid: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"operator": operator, "run": run, "pid": pid}))
