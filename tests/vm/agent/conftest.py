# SPDX-License-Identifier: Apache-2.0
"""One host for all tests of this package."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .. import deployed as deployed_hosts
from ..conftest import StartLab
from ..fleet.fleet import Deployed


@pytest.fixture(scope="package")
def deployed(start_lab: StartLab) -> Iterator[Deployed]:
    """Return a lab of one host with agent and sidecar, in userspace."""
    fleet = deployed_hosts.start(start_lab, "agent")
    yield fleet
    fleet.lab.down()
