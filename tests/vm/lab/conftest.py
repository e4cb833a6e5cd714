# SPDX-License-Identifier: Apache-2.0
"""A lab of three for all tests of this package."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ktls_lab import api

from ..conftest import StartLab


@dataclass(frozen=True)
class StartedLab:
    """The lab, how long starting it took on a warm image (seconds), and the load average before."""

    lab: api.Lab
    up_s: float
    load_before: float


@pytest.fixture(scope="package")
def started_lab(lab_images: Callable[[str], Path], start_lab: StartLab) -> Iterator[StartedLab]:
    """Return three Debian 13 hosts. A test that breaks one mends it."""
    lab_images(api.DEFAULT_IMAGE)
    load, before = os.getloadavg()[0], time.monotonic()
    lab = start_lab("shared", hosts=3)
    yield StartedLab(lab, time.monotonic() - before, load)
    lab.down()


@pytest.fixture
def lab(started_lab: StartedLab) -> api.Lab:
    """Return the lab with its state as it is now."""
    return api.Lab.load(started_lab.lab.name)
