# SPDX-License-Identifier: Apache-2.0
"""One lab for all tests of the rig."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..conftest import StartLab
from .hosts import IMAGES, Rig


@pytest.fixture(scope="package")
def rig(lab_images: Callable[[str], Path], start_lab: StartLab) -> Iterator[Rig]:
    """Return the hosts, in the order of IMAGES, with no card on their private network yet."""
    for image in IMAGES:
        lab_images(image)
    hosts = Rig(start_lab("rig", hosts=len(IMAGES), image=IMAGES))
    hosts.start()
    yield hosts
    hosts.lab.down()
