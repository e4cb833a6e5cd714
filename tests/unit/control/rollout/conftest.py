# SPDX-License-Identifier: Apache-2.0
"""Runs of the unit tests are kept in their own directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def state_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the state directory, empty, that everything here uses."""
    monkeypatch.setenv("KTLS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("KTLS_OPERATOR", "ada@control1")
    # Nobody cuts the power here, and a busy disk would make hundreds of runs slow.
    monkeypatch.setattr(os, "fsync", lambda _fd: None)
    return tmp_path / "state"
