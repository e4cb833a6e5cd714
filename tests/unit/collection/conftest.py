# SPDX-License-Identifier: Apache-2.0
"""The collection, built and installed once for all tests of a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import collection


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive as it is published."""
    return collection.build(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="session")
def installed(archive: Path) -> Path:
    """Where it was installed; ``installed.parents[1]`` is ``ansible_collections``."""
    return collection.install(archive, archive.parent / "collections")
