# SPDX-License-Identifier: Apache-2.0
"""What whole systems look like: see tests/fixtures/host/systems/README.md."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ktls_host.gnutls import GnutlsState
from ktls_host.kernel_config import KernelConfig
from ktls_host.module_lever import ModuleState
from ktls_host.openssl_lib import OpensslState
from ktls_host.proof.openssl import Cell, Proof
from ktls_host.verdict import Evidence

DIRECTORY = Path(__file__).parents[2] / "fixtures" / "host" / "systems"
RECORDED = ("debian12", "debian13", "debian13-backports")
DOCUMENTED = ("rhel9", "fedora", "ubuntu2404")
KERNELS = {
    "debian12": "6.1.0-56-cloud-amd64",
    "debian13": "6.12.117+deb13-cloud-amd64",
    "debian13-backports": "7.2.12+deb13-cloud-amd64",
    "rhel9": "5.14.0-570.12.1.el9_6.x86_64",
    "fedora": "6.14.6-300.fc42.x86_64",
    "ubuntu2404": "6.8.0-60-generic",
}


def tree(system: str, place: Path) -> str:
    """Copy the files of a system below ``place``, with their links; returns its root."""
    root = place / system
    shutil.copytree(DIRECTORY / system / "root", root)
    links = DIRECTORY / system / "links.txt"
    for line in links.read_text().splitlines() if links.exists() else ():
        path, _, target = line.partition(" -> ")
        link = root / path.lstrip("/")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)
    return str(root)


def text(system: str, name: str) -> str:
    """Return a file of a system's directory."""
    return (DIRECTORY / system / name).read_text()


def collected(system: str) -> dict[str, Any]:
    """Return what ktls_info said on a recorded system."""
    found: dict[str, Any] = json.loads(text(system, "info.json"))
    return found


def evidence(system: str) -> Evidence:
    """Return what the probes of a recorded system had found before it was judged, but for its interfaces."""
    found = collected(system)
    module: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in found["tls_module"].items()
    }
    openssl, gnutls = found["openssl"], found["gnutls"]
    cells = tuple(Cell(**cell) for cell in openssl["proof"]["cells"])
    return Evidence(
        module=ModuleState(**module),
        openssl=OpensslState(*(openssl[name] for name in ("library", "version", "number", "ktls_built"))),
        proof=Proof(**{**openssl["proof"], "cells": cells}),
        config=KernelConfig(**found["kernel_config"]),
        gnutls=GnutlsState(**{name: value for name, value in gnutls.items() if name != "effective"}),
    )
