# SPDX-License-Identifier: Apache-2.0
"""What a process of ours does to itself: no core dumps, and nothing of its parent left after a fork."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import signal
from collections.abc import Iterable

_PR_SET_DUMPABLE = 4  # include/uapi/linux/prctl.h
OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""The signals that the supervisor handles."""


def forbid_dumps() -> None:
    """No core file and no ptrace by the same user: the memory holds keys and files. PR_SET_DUMPABLE of prctl(2).

    RLIMIT_CORE alone does not stop a core_pattern(5) that is a pipe. Both pass on to forked processes.
    """
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the unit has done so, and its filter refuses this call
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def cpu_count() -> int:
    """Return the number of CPUs that this process may use. sched_getaffinity(2)."""
    try:
        return max(1, len(os.sched_getaffinity(0)))
    except OSError:
        return os.cpu_count() or 1


def become_child(keep: Iterable[int]) -> None:
    """Forget the parent right after fork(2): its signal handlers, its descriptors but 0, 1, 2 and ``keep``.

    To be called with :data:`OURS` blocked. Objects of the parent stay in memory and must never be touched: an event
    loop that is closed, or a socket that is collected, would act on descriptors that now mean something else, or on an
    epoll set that is still the parent's. So what exists now is kept from the garbage collector (which also leaves the
    shared pages shared), and the child must leave by os._exit().
    """
    gc.freeze()
    # A connection is a few hundred objects of which none is lost in a cycle; look for cycles seldom.
    gc.set_threshold(50_000, 20, 50)
    gc.enable()
    signal.set_wakeup_fd(-1)
    # What they mean is for the supervisor to say: a terminal's Ctrl-C, for one, reaches all of us.
    for number in OURS:
        signal.signal(number, signal.SIG_DFL if number == signal.SIGCHLD else signal.SIG_IGN)
    kept = {0, 1, 2, *keep}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(int(name))
