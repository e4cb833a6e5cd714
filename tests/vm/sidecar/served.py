# SPDX-License-Identifier: Apache-2.0
"""Put the conformance tests' files below /srv/ktls/site of a VM, where every byte is known on this machine too."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

from ktls_lab import api
from tests.conformance.content import make_tree

TIMEOUT_S = 120


def push_tree(lab: api.Lab, host: str, root: Path) -> dict[str, bytes]:
    """Make the tree below ``root``, which must be empty, copy it, and return what each file holds."""
    files = make_tree(root)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(root, "site")
    unpack = "tar -C /srv/ktls --no-same-owner -xf - && chmod -R a+rX /srv/ktls/site"
    subprocess.run(lab.ssh_argv(host, unpack), input=buffer.getvalue(), check=True, timeout=TIMEOUT_S)
    return files
