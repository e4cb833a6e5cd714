# SPDX-License-Identifier: Apache-2.0
"""The sidecars that all clients meet: one left alone, one whose mode changes all the time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.authority import Authority, KeyPair

from .content import make_tree, sha256
from .harness import Native, Switcher, no_errors, running

NAMES = ("localhost", "127.0.0.1", "::1", "www.example.test")
#: Natively there is no kernel TLS on most build machines; the orders are given all the same.
MODES = ("tx", "userspace", "rx", "userspace")


@dataclass(frozen=True)
class Site:
    """The served tree: ``files`` and ``sha256`` by name."""

    root: Path
    files: dict[str, bytes]
    sha256: dict[str, str]


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="session")
def pair(authority: Authority) -> KeyPair:
    return authority.issue("server", NAMES)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    root = tmp_path_factory.mktemp("site") / "root"
    root.mkdir()
    files = make_tree(root)
    return Site(root, files, {name: sha256(data) for name, data in files.items()})


@pytest.fixture(scope="session")
def steady_process(
    tmp_path_factory: pytest.TempPathFactory, site: Site, pair: KeyPair, authority: Authority
) -> Iterator[Native]:
    with running(tmp_path_factory.mktemp("steady"), site.root, pair, authority.path) as native:
        yield native


@pytest.fixture(scope="session")
def switching_process(
    tmp_path_factory: pytest.TempPathFactory, site: Site, pair: KeyPair, authority: Authority
) -> Iterator[tuple[Native, Switcher]]:
    with running(tmp_path_factory.mktemp("switching"), site.root, pair, authority.path) as native:
        switcher = Switcher(native.mode, MODES)
        yield native, switcher
        switcher.stop()


@pytest.fixture
def steady(steady_process: Native) -> Iterator[Native]:
    """Nobody changes its mode: for clients that keep a connection. Whatever a client did is no error of the server."""
    with no_errors(steady_process):
        yield steady_process


@pytest.fixture
def switching(switching_process: tuple[Native, Switcher]) -> Iterator[Native]:
    """Its mode changes several times a second, which no client may notice in a response."""
    native, _ = switching_process
    with no_errors(native):
        yield native
