# SPDX-License-Identifier: Apache-2.0
"""A host with a real nginx, for each test."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ktls_host.nginx.settings import Settings

if TYPE_CHECKING:
    from tests.unit.host.nginx.nginxhost import Host
else:
    import sys

    sys.path.insert(0, str(Path(__file__).parent))
    from nginxhost import Host


@pytest.fixture
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.getbasetemp() / "nginx-certificate"
    if not directory.exists():
        directory.mkdir()
        command = [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", str(directory / "key.pem"), "-out", str(directory / "cert.pem"),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
    return directory


@pytest.fixture
def host(tmp_path: Path, certificate: Path) -> Iterator[Host]:
    found = Host(tmp_path)
    for name in ("key.pem", "cert.pem"):
        shutil.copy(certificate / name, tmp_path / name)
    tls = tmp_path / "etc/ktls/tls"
    tls.mkdir(parents=True)
    for name in ("key.pem", "cert.pem"):
        shutil.copy(certificate / name, tls / name)
    found.settings = Settings(
        probe_port=found.probe_port,
        server_name="localhost",
        certificate=f"{tls}/cert.pem",
        key=f"{tls}/key.pem",
    )
    (tmp_path / "run/ktls").mkdir(parents=True)
    (tmp_path / "www").mkdir()
    found.write()
    yield found
    found.stop()
