# SPDX-License-Identifier: Apache-2.0
"""What can be said of a server by looking at it from outside: connections and bytes by the kernel's view. Pure.

Bytes are TCP payload, TLS's own overhead included, where a server that counts for itself has bytes of HTTP.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from typing import Any

from .. import textfile
from .model import Flow, Seen

IN_KERNEL = ("sw", "hw")
_CGROUPS = "/sys/fs/cgroup"


def flows_of(seen: Seen | None, process: str) -> tuple[Flow, ...]:
    """Return what is known of one serving process; ``process`` is its unit without ``.service``, or its program."""
    return tuple(flow for flow in seen.flows if flow.process == process) if seen else ()


def counted(seen: Seen | None, process: str) -> dict[str, Any]:
    """Return ``connections``, ``bytes`` and ``ktls_rx`` as a sidecar's status has them; empty before the first view."""
    if seen is None:
        return {}
    flows = flows_of(seen, process)
    sending = [flow for flow in flows if flow.tx in IN_KERNEL]
    others = [flow for flow in flows if flow.tx not in IN_KERNEL]
    receiving = [flow for flow in flows if flow.rx in IN_KERNEL]
    return {
        "connections": {"ktls_tx": _open(sending), "userspace": _open(others)},
        "bytes": {"ktls_tx": _sent(sending), "userspace": _sent(others)},
        "ktls_rx": {"connections": _open(receiving), "bytes": sum(flow.received for flow in receiving)},
    }


def ktls_open(seen: Seen | None, process: str, in_kernel: int | None) -> int | None:
    """Return how many connections of ``process`` send by kernel TLS now.

    ``in_kernel``: what the kernel counts in its network namespace (TlsCurrTxSw and TlsCurrTxDevice) at this moment,
    where a view is some seconds old. What the view shows of other programs is taken off. Without it: what it shows.
    """
    flows = seen.flows if seen else ()
    if in_kernel is None:
        return _open(flow for flow in flows if flow.process == process and flow.tx in IN_KERNEL) if seen else None
    return max(0, in_kernel - _open(flow for flow in flows if flow.process != process and flow.tx in IN_KERNEL))


def main_pid(unit: str, root: str = "/") -> int | None:
    """Return the oldest process of ``unit``'s control group: the one that the others descend from.

    cgroups(7): cgroup.procs; proc_pid_stat(5): field 22. None when it does not run, or there is no cgroup v2.
    """
    started: list[tuple[int, int]] = []
    for pid in pids(unit, root):
        fields = (textfile.read(root, f"/proc/{pid}/stat") or "").rpartition(")")[2].split()
        if len(fields) > 19 and fields[19].isdigit():
            started.append((int(fields[19]), pid))
    return min(started)[1] if started else None


def pids(unit: str, root: str = "/") -> tuple[int, ...]:
    """Return the processes of ``unit``'s control group, wherever its slice is; none when it does not run."""
    for path in places(unit, root):
        text = textfile.read(root, path + "/cgroup.procs")
        if text:
            return tuple(int(word) for word in text.split() if word.isdigit())
    return ()


def places(unit: str, root: str = "/") -> list[str]:
    """Return the control groups that ``unit`` has or may have, the usual one first (systemd.slice(5))."""
    usual = f"{_CGROUPS}/system.slice/{unit}"
    if os.path.isdir(textfile.under(root, usual)):
        return [usual]
    base = textfile.under(root, _CGROUPS)
    found = glob.glob(f"{glob.escape(base)}/*.slice/**/{glob.escape(unit)}", recursive=True)
    return [_CGROUPS + path[len(base) :] for path in sorted(found)]


def _open(flows: Iterable[Flow]) -> int:
    return sum(flow.connections for flow in flows)


def _sent(flows: Iterable[Flow]) -> int:
    return sum(flow.sent for flow in flows)
