# SPDX-License-Identifier: Apache-2.0
"""Two hosts with agent, sidecar and a played card on the network between them: one serves, the other downloads."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .. import deployed as deployed_hosts
from ..conftest import StartLab
from .hosts import Pair


@pytest.fixture(scope="package")
def pair(start_lab: StartLab) -> Iterator[Pair]:
    """Return the two, in userspace; consent to TLS 1.2 is given on the one that serves."""
    fleet = deployed_hosts.start(start_lab, "hw", ("debian13", "debian13"), rig=True)
    pair = Pair(fleet)
    pair.prepare()
    yield pair
    fleet.lab.down()
