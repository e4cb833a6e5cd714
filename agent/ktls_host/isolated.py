# SPDX-License-Identifier: Apache-2.0
"""Ask a C library or the kernel a question in a child process: a crash or a hang there is an answer, not an end.

The child can have a network namespace of its own, so that what it tries is seen by no firewall, counted in no
counter of the host and reachable by nobody.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Emit = Callable[[Any], None]

_CLONE_NEWNET = 0x40000000  # clone(2)
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1  # netdevice(7)
_IFREQ = "16sh22x"


@dataclass(frozen=True)
class Outcome:
    """``answers`` is what the child said, in order, as plain JSON types.

    ``ended`` is ``done``, ``timeout``, ``signal N``, ``exit N`` or ``error: TEXT`` for an exception in the child.
    """

    answers: tuple[Any, ...]
    ended: str

    @property
    def done(self) -> bool:
        """True when the child came to its end by itself."""
        return self.ended == "done"


def call(function: Callable[[Emit], None], timeout_s: float) -> Outcome:
    """Run ``function(emit)`` in a child for at most ``timeout_s`` seconds; what it emits is kept whatever comes next.

    The child's output goes nowhere. Raises :class:`OSError` when no process can be had.
    """
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(read_end)
            status = _child(function, write_end)
        finally:
            os._exit(status)  # whatever happens here: the caller's code must not run twice
    os.close(write_end)
    try:
        text, in_time = _collect(read_end, time.monotonic() + timeout_s)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)  # it has closed the pipe, or it is late
        os.close(read_end)
        status = 0
        with contextlib.suppress(ChildProcessError):  # SIGCHLD is ignored: the kernel has done it (waitpid(2))
            _, status = os.waitpid(child, 0)
    # An answer cut short by the end of its writer is no answer.
    lines = [json.loads(line) for line in text.split(b"\n")[:-1]]
    answers = tuple(line["answer"] for line in lines if "answer" in line)
    last = lines[-1] if lines else {}
    if "done" in last:
        return Outcome(answers, "done")
    if "error" in last:
        return Outcome(answers, f"error: {last['error']}")
    if not in_time:
        return Outcome(answers, "timeout")
    ended = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
    return Outcome(answers, ended)


def own_network() -> bool:
    """Give the calling process a network namespace with nothing but loopback, up; False when that is not permitted.

    Not permitted to ordinary users and in most containers. Source: unshare(2), netdevice(7).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        if number in (errno.EPERM, errno.EINVAL, errno.ENOSYS, errno.ENOSPC):
            return False
        raise OSError(number, os.strerror(number))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack(_IFREQ, b"lo", 0)
        _, flags = struct.unpack(_IFREQ, fcntl.ioctl(control, _SIOCGIFFLAGS, request))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack(_IFREQ, b"lo", flags | _IFF_UP))
    return True


def _child(function: Callable[[Emit], None], write_end: int) -> int:
    def say(line: dict[str, Any]) -> None:
        data = json.dumps(line).encode() + b"\n"
        while data:
            data = data[os.write(write_end, data) :]

    try:
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        function(lambda answer: say({"answer": answer}))
        say({"done": True})
    except BaseException as error:
        say({"error": f"{type(error).__name__}: {error}"})
        return 1
    return 0


def _collect(read_end: int, deadline: float) -> tuple[bytes, bool]:
    text = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([read_end], [], [], left)[0]:
            return text, False
        piece = os.read(read_end, 65536)
        if not piece:
            return text, True
        text += piece
