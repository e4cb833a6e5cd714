# SPDX-License-Identifier: Apache-2.0
"""Run the commands of an image's build: output in one log, the end of the log as the error, nothing left running."""

from __future__ import annotations

import errno
import os
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ktls_lab import tools
from ktls_lab.errors import LabError

_LOG_LINES = 6

# mmdebstrap as root mounts /proc, /sys and /dev in the tree and starts programs in it; SIGKILL keeps it from ending
# and unmounting them, and the tree would be removed with this machine's /sys in it. In namespaces of its own nothing
# outlives us: the kernel ends unshare(1) with us (PR_SET_PDEATHSIG; SIGKILL, because unshare blocks SIGTERM), with it
# PID 1 of the namespace, with that everything in it, and the mounts with the last of them.
_GUARD = ("setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--")


@dataclass(frozen=True)
class Steps:
    """Runs commands for the build of ``image`` (its name); what they print goes to ``log``, open as ``output``."""

    image: str
    log: Path
    output: int

    def run(
        self, argv: Sequence[str], environment: Mapping[str, str] | None = None, directory: Path | None = None
    ) -> None:
        """Run one command to its end; ``environment`` is added to ours, ``directory`` is where it starts.

        Raises:
            LabError: it failed (with the end of the log).
            OSError: ENOSPC when the log says that the disk is full.
        """
        added = {"PATH": tools.search_path(), "LC_ALL": "C.UTF-8", **(environment or {})}
        run = subprocess.run(
            [*_GUARD, *argv],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            env=os.environ | added,
            cwd=directory,
            check=False,
        )
        if run.returncode == 0:
            return
        with self.log.open(encoding="utf-8", errors="replace") as lines:
            tail = [line.strip() for line in deque(lines, 400)]
        if any("No space left on device" in line or "enough free space" in line for line in tail):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        last = " | ".join([line for line in tail if line][-_LOG_LINES:])
        raise self.error(f"{argv[0]} failed with exit status {run.returncode}: {last} (log: {self.log})")

    def error(self, words: str) -> LabError:
        """Return the error that says why the image cannot be built."""
        return LabError(f"cannot build image {self.image}: {words}")
