# SPDX-License-Identifier: Apache-2.0
"""One host for all tests of this package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ..conftest import StartLab
from ..fleet.fleet import Deployed


@pytest.fixture(scope="package")
def deployed(start_lab: StartLab) -> Iterator[Deployed]:
    """Return a lab of one host with agent and sidecar, in userspace."""
    fleet = Deployed(start_lab("agent", hosts=1))
    done = fleet.ktls("deploy")
    assert done.returncode == 0, done.stdout + done.stderr
    yield fleet
    fleet.lab.down()
