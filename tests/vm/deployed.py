# SPDX-License-Identifier: Apache-2.0
"""Hosts with agent and sidecar, without the deploy of each test package: deployed once, kept, and gone on from.

The kept hosts are in the cache, by what decides their content: images, the release with its version, and everything
of this repository that takes part in a deploy. Without a cache they are made anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path

from ktls_lab import accel, api, build, cache, images, kept, snapshot, state
from ktls_lab.paths import cache_dir

from .fleet.fleet import ROOT, Deployed

#: What takes part in a deploy beside the release.
PARTS = (
    "ansible.cfg", "control", "galaxy.yml", "inventory/lab", "lab/ktls_lab", "library", "meta", "playbooks", "plugins",
    "pyproject.toml", "requirements", "roles",
)  # fmt: skip
UNUSED_S = 6 * 3600.0

Up = Callable[..., api.Lab]


def start(up: Up, suffix: str, image: Sequence[str] = (api.DEFAULT_IMAGE,), *, rig: bool = False) -> Deployed:
    """Return hosts of these images, deployed, in userspace. ``up`` is the fixture ``start_lab``.

    ``rig``: with a played card on each, which what is kept does not have.
    """
    place = cache_dir() / "deployed" / key(image)
    cache.make_once(place, lambda temporary: _make(up, f"{suffix}-d", image, temporary))
    os.utime(place / state.FILE)
    kept.prune(place.parent, UNUSED_S, print)
    return Deployed(up(suffix, hosts=len(image), image=image, kept=place, rig=rig))


def _make(up: Up, suffix: str, image: Sequence[str], place: Path) -> None:
    fleet = Deployed(up(suffix, hosts=len(image), image=image))
    done = fleet.ktls("deploy")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {status["phase"] for status in fleet.status().values()} == {"userspace"}
    api.keep(fleet.lab.name, place)


def key(image: Sequence[str], root: Path = ROOT) -> str:
    """Name what a deploy of this tree on hosts of these images comes to."""
    with tempfile.TemporaryDirectory(prefix="ktls-test-") as scratch:
        argv = [sys.executable, str(root / "agent/build.py"), "--output", f"{scratch}/ktls.pyz"]
        done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=60)
    # The release holds its version, and that the commit.
    sha = hashlib.sha256(json.loads(done.stdout)["sha256"].encode())
    for path in sorted(path for part in PARTS for path in _files(root / part)):
        sha.update(f"{path.relative_to(root)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    sha.update(metadata.version("ansible-core").encode())
    for name in image:
        built = build.ensure(images.load(name), print)
        sha.update(bytes(snapshot.locate(built, accel.choose(built.kernel, built.initrd))))
    return sha.hexdigest()[:16]


def _files(part: Path) -> list[Path]:
    found = part.rglob("*") if part.is_dir() else [part]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]
