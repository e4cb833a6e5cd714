# SPDX-License-Identifier: Apache-2.0
"""Do something in the network namespace of another process.

A thread of its own goes there (setns(2)) and ends: the rest of this process never leaves. What it opens stays in that
namespace. Takes CAP_SYS_ADMIN, and CAP_SYS_PTRACE to open the namespace of another user's process.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, TypeVar

from ktls_host.errors import KtlsError

Made = TypeVar("Made")
_CLONE_NEWNET = 0x40000000


def in_namespace_of(pid: int, make: Callable[[], Made]) -> Made:
    """Return what ``make`` returns there. Raises what it raises, and :class:`KtlsError`: ``namespace``."""
    # The thread ends with its pool: nothing else ever runs in that namespace. Making sockets does not wait for anybody.
    with ThreadPoolExecutor(1, "namespace") as pool:
        return pool.submit(_make_in, pid, make).result()


def _make_in(pid: int, make: Callable[[], Made]) -> Made:
    _enter(pid)
    return make()


def _enter(pid: int) -> None:
    import ctypes

    try:
        descriptor = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        message = f"cannot open the network namespace of process {pid} ({error.strerror}); CAP_SYS_PTRACE is needed"
        raise KtlsError("namespace", message) from error
    try:
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET) != 0:
            why = os.strerror(ctypes.get_errno())
            message = f"cannot enter the network namespace of process {pid} ({why}); CAP_SYS_ADMIN is needed"
            raise KtlsError("namespace", message)
    finally:
        os.close(descriptor)
