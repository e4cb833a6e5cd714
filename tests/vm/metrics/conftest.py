# SPDX-License-Identifier: Apache-2.0
"""One deployed host, scraped by a real Prometheus."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .. import deployed as deployed_hosts
from ..conftest import StartLab
from ..fleet.fleet import Deployed
from .scraper import Prometheus, forwarded, prometheus

HOST = "web1"


@pytest.fixture(scope="package")
def deployed(start_lab: StartLab) -> Iterator[Deployed]:
    """Return one host with agent and sidecar, in userspace."""
    fleet = deployed_hosts.start(start_lab, "metrics")
    yield fleet
    fleet.lab.down()


@pytest.fixture(scope="package")
def scraped(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Return a Prometheus that scrapes the host and evaluates our rules."""
    with (
        forwarded(deployed.lab, HOST) as port,
        prometheus(tmp_path_factory.mktemp("prometheus"), port, HOST) as server,
    ):
        yield server
