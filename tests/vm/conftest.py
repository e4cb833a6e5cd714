# SPDX-License-Identifier: Apache-2.0
"""Real hosts for the tests: a lab of three for the session, and more on demand; always ended."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from ktls_lab import api
from ktls_lab.errors import LabError

from .fleet import Deployed

TESTS = Path(__file__).parent
PREFIX = f"test-{os.getpid()}"

StartLab = Callable[..., api.Lab]


@dataclass(frozen=True)
class StartedLab:
    """The session's lab, how long starting it took on a warm image (seconds), and the load average before."""

    lab: api.Lab
    up_s: float
    load_before: float


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in this directory."""
    for item in items:
        if TESTS in item.path.parents:
            item.add_marker(pytest.mark.vm)


@pytest.fixture(scope="session")
def lab_images() -> Callable[[str], Path]:
    """Return a builder of images: gives the directory of one, built with its snapshot if it was not there."""
    return lambda name: api.build_image(name, print)


@pytest.fixture(scope="session")
def start_lab() -> Iterator[StartLab]:
    """Return a starter of labs with a name of their own: ``start_lab("suffix", hosts=1, image="debian13")``."""
    started: list[str] = []

    def start(suffix: str, hosts: int = 1, image: str | Sequence[str] = api.DEFAULT_IMAGE) -> api.Lab:
        name = f"{PREFIX}-{suffix}"
        started.append(name)
        return api.up(name, hosts, image, print)

    yield start
    for name in started:
        with suppress(LabError):
            api.down(name)


@pytest.fixture(scope="session")
def started_lab(lab_images: Callable[[str], Path], start_lab: StartLab) -> StartedLab:
    """Return three Debian 13 hosts, shared by the session. A test that breaks one mends it."""
    lab_images(api.DEFAULT_IMAGE)
    load, before = os.getloadavg()[0], time.monotonic()
    lab = start_lab("shared", hosts=3)
    return StartedLab(lab, time.monotonic() - before, load)


@pytest.fixture
def lab(started_lab: StartedLab) -> api.Lab:
    """Return the session's lab with its state as it is now."""
    return api.Lab.load(started_lab.lab.name)


@pytest.fixture(scope="session")
def deployed(started_lab: StartedLab) -> Deployed:
    """Return the session's lab with agent and sidecar on every host, in userspace."""
    fleet = Deployed(started_lab.lab)
    done = fleet.ktls("deploy")
    assert done.returncode == 0, done.stdout + done.stderr
    return fleet
