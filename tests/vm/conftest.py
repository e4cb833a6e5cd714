# SPDX-License-Identifier: Apache-2.0
"""Real hosts for the tests, on demand; always ended."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest

from ktls_lab import api
from ktls_lab.errors import LabError

TESTS = Path(__file__).parent
PREFIX = f"test-{os.getpid()}"

StartLab = Callable[..., api.Lab]


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "more: what unit tests show with the same parts, once more on a kernel; long")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is in this directory; leave out what is marked ``more`` unless it is asked for with ``-m more``."""
    for item in items:
        if TESTS in item.path.parents:
            item.add_marker(pytest.mark.vm)
    if "more" not in config.getoption("markexpr"):
        left_out = [item for item in items if item.get_closest_marker("more")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def lab_images() -> Callable[[str], Path]:
    """Return a builder of images: gives the directory of one, built with its snapshot if it was not there."""
    return lambda name: api.build_image(name, print)


@pytest.fixture(scope="session")
def start_lab() -> Iterator[StartLab]:
    """Return a starter of labs with a name of their own: ``start_lab("suffix", hosts=1, image="debian13")``.

    ``kept``: go on from a lab that was kept there (:mod:`tests.vm.deployed`). ``rig``: each host has a played card.
    """
    started: list[str] = []

    def start(
        suffix: str,
        hosts: int = 1,
        image: str | Sequence[str] = api.DEFAULT_IMAGE,
        kept: Path | None = None,
        rig: bool = False,
    ) -> api.Lab:
        name = f"{PREFIX}-{suffix}"
        started.append(name)
        lab = api.up(name, hosts, image, print, kept, rig=rig)
        lab.share_logins = True
        return lab

    yield start
    for name in started:
        with suppress(LabError):
            api.down(name)
