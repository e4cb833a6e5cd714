# SPDX-License-Identifier: Apache-2.0
"""One pair of hosts for the tests of phase ``hw`` that look at the wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.authority import Authority

from ..conftest import StartLab
from .pair import IMAGES, Pair


@pytest.fixture(scope="package")
def pair(
    lab_images: Callable[[str], Path], start_lab: StartLab, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    """Return the hosts: a played card on each, the sidecar on the first one."""
    for image in set(IMAGES):
        lab_images(image)
    scratch = tmp_path_factory.mktemp("hw")
    hosts = Pair(start_lab("hw", hosts=len(IMAGES), image=IMAGES, rig=True), Authority(scratch))
    hosts.prepare(scratch)
    yield hosts
    hosts.lab.down()
