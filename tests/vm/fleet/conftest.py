# SPDX-License-Identifier: Apache-2.0
"""One fleet for all tests of this package: a host of each image, so that every kernel takes part in every rollout."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..conftest import StartLab
from .fleet import Deployed

FLEET = ("debian13", "debian12", "debian13-backports")


@pytest.fixture(scope="package")
def deployed(lab_images: Callable[[str], Path], start_lab: StartLab) -> Iterator[Deployed]:
    """Return the fleet with agent and sidecar on every host, in userspace."""
    for image in FLEET:
        lab_images(image)
    fleet = Deployed(start_lab("fleet", hosts=len(FLEET), image=FLEET))
    done = fleet.ktls("deploy")
    assert done.returncode == 0, done.stdout + done.stderr
    yield fleet
    fleet.lab.down()
