# SPDX-License-Identifier: Apache-2.0
"""nginx as a witness of what the evidence says. Only with ``pytest -m nginx``: its image is not part of each run."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "nginx: needs the image debian13-bench")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the tests of this directory out unless they are asked for with ``-m nginx``."""
    mine = [item for item in items if HERE in item.path.parents]
    for item in mine:
        item.add_marker(pytest.mark.nginx)
    if mine and "nginx" not in config.getoption("markexpr"):
        items[:] = [item for item in items if item not in mine]
