# SPDX-License-Identifier: Apache-2.0
"""A temporary directory with the files to serve and the certificate, readable by the account of the servers."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import BenchError
from bench.settings import BULK_FILES, BULK_SIZES, SMALL_FILES, SMALL_SIZE, TINY_SIZE


@dataclass
class Stage:
    """What both servers use."""

    directory: Path
    root: Path
    certificate: Path
    key: Path
    user: str | None
    hashes: dict[str, str] = field(default_factory=dict)
    """SHA-256 of each file by its URL path."""

    def own(self, path: Path) -> Path:
        """Give ``path`` to the account of the servers and return it."""
        if self.user is not None:
            account = pwd.getpwnam(self.user)
            os.chown(path, account.pw_uid, account.pw_gid)
        return path

    def make_directory(self, name: str) -> Path:
        """Return a new directory that a server may write to."""
        path = self.directory / name
        path.mkdir()
        return self.own(path)


@contextlib.contextmanager
def stage(user: str | None) -> Iterator[Stage]:
    """Make the stage and remove it at the end. Raises BenchError: no certificate can be made."""
    directory = Path(tempfile.mkdtemp(prefix="ktls-bench-"))
    try:
        directory.chmod(0o755)
        made = Stage(directory, directory / "root", directory / "cert.pem", directory / "key.pem", user)
        made.root.mkdir()
        _certificate(made)
        _file(made, "/tiny.bin", TINY_SIZE)
        for index in range(SMALL_FILES):
            _file(made, small_path(index), SMALL_SIZE)
        for name, size in BULK_SIZES.items():
            for index in range(BULK_FILES[name]):
                _file(made, bulk_path(name, index), size)
        yield made
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def small_path(index: int) -> str:
    """URL path of a 10 KiB file; requests.lua builds the same."""
    return f"/small/{index:03d}.bin"


def bulk_path(name: str, index: int) -> str:
    """URL path of a large file of scenario ``name``."""
    return f"/{name}/{index:03d}.bin"


def _file(made: Stage, path: str, size: int) -> None:
    data = os.urandom(size)
    place = made.root / path.lstrip("/")
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(data)
    place.chmod(0o644)
    made.hashes[path] = hashlib.sha256(data).hexdigest()


def _certificate(made: Stage) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(made.key), "-out", str(made.certificate), "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode != 0:
        raise BenchError(f"openssl cannot make a certificate: {' '.join(ran.stderr.split())}")
    made.certificate.chmod(0o644)
    made.key.chmod(0o600)
    made.own(made.key)
