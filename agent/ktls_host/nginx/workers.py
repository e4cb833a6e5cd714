# SPDX-License-Identifier: Apache-2.0
"""nginx's processes by their titles (ngx_setproctitle in src/os/unix/ngx_process_cycle.c).

A worker keeps the configuration that it was started with. After a reload the old ones are "shutting down": they accept
nothing and end with their last connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .. import textfile

_MASTER = "nginx: master process"
_LEAVING = "nginx: worker process is shutting down"
_WORKERS = re.compile(r"nginx: worker process\s*\Z")


@dataclass(frozen=True)
class Processes:
    """By process id. ``workers`` accept connections, ``leaving`` do not any more."""

    master: int | None = None
    workers: frozenset[int] = frozenset()
    leaving: frozenset[int] = frozenset()

    @property
    def all(self) -> frozenset[int]:
        """Return every process of it."""
        return self.workers | self.leaving | ({self.master} if self.master is not None else frozenset())


def read(pids: Iterable[int], root: str = "/") -> Processes:
    """Return which of ``pids`` are what. One that has gone, or that we may not see, is none."""
    master: list[int] = []
    workers, leaving = set(), set()
    for pid in pids:
        title = (textfile.read(root, f"/proc/{pid}/cmdline") or "").replace("\0", " ").strip()
        if title.startswith(_MASTER):
            master.append(pid)
        elif title.startswith(_LEAVING):
            leaving.add(pid)
        elif _WORKERS.match(title):
            workers.add(pid)
    return Processes(min(master, default=None), frozenset(workers), frozenset(leaving))


def renewed(before: Processes, now: Processes) -> bool:
    """Return whether a reload has come through: new workers serve, and none of the old ones does."""
    return bool(now.workers) and not (now.workers & before.workers)
