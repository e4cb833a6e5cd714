# SPDX-License-Identifier: Apache-2.0
"""Do something in the network namespace of another process.

A thread of its own goes there (setns(2)) and ends: the rest of this process never leaves. What it opens stays in that
namespace. Takes CAP_SYS_ADMIN, and CAP_SYS_PTRACE to open the namespace of another user's process.
"""

from __future__ import annotations

import os
import threading
from typing import Callable, TypeVar

from ktls_host.errors import KtlsError

Made = TypeVar("Made")
_CLONE_NEWNET = 0x40000000
_TIMEOUT_S = 5.0


def in_namespace_of(pid: int, make: Callable[[], Made]) -> Made:
    """Return what ``make`` returns there. Raises what it raises, and :class:`KtlsError`: ``namespace``."""
    made: list[Made] = []
    failed: list[BaseException] = []

    def go() -> None:
        try:
            _enter(pid)
            made.append(make())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=go, name="namespace")
    thread.start()
    thread.join(_TIMEOUT_S)
    if failed:
        raise failed[0]
    if not made:
        raise KtlsError("namespace", f"entering the network namespace of process {pid} took too long")
    return made[0]


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
