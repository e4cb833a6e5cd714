# SPDX-License-Identifier: Apache-2.0
"""nginx as a datapath; and, only with ``pytest -m nginx``, as a witness of what the evidence says."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "nginx: the long witness, not part of each run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the witness out unless it is asked for with ``-m nginx``."""
    mine = [item for item in items if item.path == HERE / "test_witness.py"]
    for item in mine:
        item.add_marker(pytest.mark.nginx)
    if mine and "nginx" not in config.getoption("markexpr"):
        items[:] = [item for item in items if item not in mine]
