# SPDX-License-Identifier: Apache-2.0
"""A build that is killed leaves nothing running and nothing mounted. Here because, as root, it really builds."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

PYTHON = [sys.executable, "-m", "ktls_lab", "build", "--image", "debian13"]
LAB = Path(__file__).parents[3] / "lab"


def users(directory: Path) -> list[str]:
    """Command lines of the processes that have ``directory`` in them or as their root directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(directory) in words or os.readlink(process / "root").startswith(str(directory)):
                found.append(words)
    return found


def test_a_killed_build_ends_with_all_that_it_started(tmp_path: Path) -> None:
    environment = {**os.environ, "KTLS_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(LAB)}
    log = tmp_path / "lab/images/debian13.build.log"
    with subprocess.Popen(PYTHON, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as build:
        deadline = time.monotonic() + 300
        # By then mmdebstrap has mounted /proc, /sys and /dev in the tree, and dpkg runs in it.
        while not (log.exists() and "installing remaining packages" in log.read_text(errors="replace")):
            assert build.poll() is None and build.stderr is not None, build.stderr and build.stderr.read().decode()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert len(users(tmp_path)) > 2
        (tree,) = tmp_path.glob("lab/images/.*.tmp/tree")
        assert str(tree) not in Path("/proc/self/mounts").read_text(encoding="utf-8"), "mounts that outlive the build"
        build.send_signal(signal.SIGKILL)
        build.wait(10)
    deadline = time.monotonic() + 10
    while users(tmp_path):
        assert time.monotonic() < deadline, users(tmp_path)
        time.sleep(0.1)
    assert list((tree / "proc").iterdir()) == [], "the machine's /proc is in what the next build removes"
    shutil.rmtree(tmp_path / "lab")  # not before: see above
