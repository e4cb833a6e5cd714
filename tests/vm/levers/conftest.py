# SPDX-License-Identifier: Apache-2.0
"""One lab for all tests of this package: a host of each image, nothing of ours on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..conftest import StartLab
from .lever_lab import IMAGES, Levers


@pytest.fixture(scope="package")
def levers(lab_images: Callable[[str], Path], start_lab: StartLab) -> Iterator[Levers]:
    """Return the hosts, in the order of IMAGES. A test that changes one restores it."""
    for image in IMAGES:
        lab_images(image)
    hosts = Levers(start_lab("levers", hosts=len(IMAGES), image=IMAGES))
    yield hosts
    hosts.lab.down()
