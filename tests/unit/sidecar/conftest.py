# SPDX-License-Identifier: Apache-2.0
"""Certificates, made once, and a sidecar for each test."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.authority import Authority
from tests.unit.sidecar.processes import Command
from tests.unit.sidecar.support import Certificate, Sidecar, running


def issue(
    directory: Path, name: str, dns_names: Sequence[str] = ("localhost",), common_name: str = "localhost"
) -> Certificate:
    """Make a CA and a certificate, for localhost if not told otherwise, below ``directory``."""
    authority = Authority(directory, name)
    pair = authority.issue(name, [*dns_names, "127.0.0.1"], common_name=common_name)
    return Certificate(authority.path, pair.certificate, pair.key)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A key pair and the CA that clients trust."""
    return issue(tmp_path_factory.mktemp("tls"), "first")


@pytest.fixture(scope="session")
def other_certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """Another key pair under another CA."""
    return issue(tmp_path_factory.mktemp("tls"), "second")


@pytest.fixture
def sidecar(tmp_path: Path, certificate: Certificate) -> Iterator[Sidecar]:
    """A running sidecar with default settings, serving ``sidecar.root``."""
    with running(tmp_path, certificate) as instance:
        (instance.root / "hello.txt").write_text("hello, world\n")
        yield instance


@pytest.fixture
def command(tmp_path: Path, certificate: Certificate) -> Iterator[Command]:
    """The command, to be started; what a failed test leaves running ends with it."""
    made = Command(tmp_path, certificate)
    yield made
    made.kill()
