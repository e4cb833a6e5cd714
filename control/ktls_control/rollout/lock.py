# SPDX-License-Identifier: Apache-2.0
"""One rollout at a time per fleet, its holder named; and the epoch that fences whoever lost the lock.

The lock is a flock(2), so it ends with its holder however that dies. Ansible runs each task in a process of its own;
so the lock is held by a small process that watches ``ansible-playbook`` itself and ends with it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..errors import ControlError
from ..files import write

#: A reader that looks whether the lock is free holds it for an instant; so does a holder that is just ending (seconds).
_PATIENCE_S = 2.0
_AGAIN_S = 0.02

#: Runs in the holder: the descriptor of the lock is open in it, and in nobody else.
_HOLD = """
import os, select, sys, time
pid = int(sys.argv[1])
try:
    fd = os.pidfd_open(pid)
    select.select([fd], [], [])
except ProcessLookupError:
    pass
except (AttributeError, OSError):
    while True:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        except PermissionError:
            pass
        time.sleep(0.2)
"""
_NAME = "ktls-lock-holder"


def take(path: Path, *, operator: str, run: str, pid: int) -> dict[str, Any]:
    """Take the lock of a fleet for as long as process ``pid`` lives.

    :returns: what was written of the holder.
    :raises ControlError: ``locked``, naming who holds it, or ``no_space``.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        if not _flock(fd, _PATIENCE_S):
            raise _locked(path)
        holder = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _HOLD, str(pid), _NAME],
            pass_fds=[fd],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )
        record = {
            "operator": operator,
            "pid": pid,
            "host": socket.gethostname(),
            "since": round(time.time(), 3),
            "run": run,
            "holder": holder.pid,
        }
        holder.returncode = 0  # it outlives this process on purpose
        try:
            _say(fd, record)
        except OSError as error:
            _end(holder.pid)
            raise ControlError("no_space", f"{path}: {error.strerror}: nothing was started; free some space") from error
        return record
    finally:
        os.close(fd)


def _say(fd: int, record: dict[str, Any]) -> None:
    # In place: the lock is on this very file.
    text = json.dumps(record).encode() + b"\n"
    os.pwrite(fd, text, 0)
    os.ftruncate(fd, len(text))
    os.fsync(fd)


def name_run(path: Path, run: str) -> None:
    """Write which run it is that holds the lock. Call with the lock held."""
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        _say(fd, {**said(path), "run": run})
    except OSError as error:
        raise ControlError("no_space", f"{path}: {error.strerror}: nothing was started; free some space") from error
    finally:
        os.close(fd)


def _flock(fd: int, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES) or time.monotonic() > deadline:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                return False
        time.sleep(_AGAIN_S)


def _locked(path: Path) -> ControlError:
    record = said(path)
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(record.get("since", 0)))
    return ControlError(
        "locked",
        f"{path.parent.name}: {record.get('operator', 'somebody')} rolls out on this fleet since {since} "
        f"(run {record.get('run', '?')}, pid {record.get('pid', '?')} on {record.get('host', '?')}): "
        "wait for it (`ktls status --watch`), or `ktls abort` it",
    )


def release(path: Path, pid: int) -> None:
    """Let go of the lock that is held for process ``pid``."""
    record = said(path)
    if record.get("pid") == pid and record.get("host") == socket.gethostname() and held(path):
        _end(int(record.get("holder", 0)))


def _end(pid: int) -> None:
    try:
        mine = _NAME.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return
    if mine:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)


def said(path: Path) -> dict[str, Any]:
    """What the holder, or the last one, wrote of itself; empty when nobody did."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def held(path: Path) -> bool:
    """Whether somebody holds the lock now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return True
        raise
    finally:
        os.close(fd)
    return False


def next_epoch(path: Path, *seen: int) -> int:
    """A new epoch, higher than any used or seen before; it is durable when this returns. Call with the lock held.

    :param path: the fleet's ``epoch`` file.
    :raises ControlError: ``bad_epoch``, ``no_space``.
    """
    try:
        last = int(path.read_text())
    except FileNotFoundError:
        last = 0
    except ValueError as error:
        raise ControlError(
            "bad_epoch", f"{path}: not a number: write the highest epoch of `ktls status` into it, or remove it"
        ) from error
    epoch = max(last, *seen, 0) + 1
    try:
        write(path, f"{epoch}\n")
    except OSError as error:
        raise ControlError("no_space", f"{path}: {error.strerror}: nothing was started; free some space") from error
    return epoch
