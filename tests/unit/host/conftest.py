# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the host part: recordings of real kernels, and a runner that plays programs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.unit.host import recordings
else:
    sys.path.insert(0, str(Path(__file__).parent))
    import recordings


@pytest.fixture(params=recordings.paths(), ids=lambda path: path.stem)
def recording(request: pytest.FixtureRequest) -> recordings.Recording:
    """Each recorded kernel in turn."""
    return recordings.load(request.param)
