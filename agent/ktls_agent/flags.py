# SPDX-License-Identifier: Apache-2.0
"""The off flag: two files, either of which means userspace. Existence is what counts, never the content."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from dataclasses import dataclass

_READ_LIMIT = 4096
_REASON_LIMIT = 300


@dataclass(frozen=True)
class FlagInfo:
    """What is known of the flag. ``age_s``: seconds since it was written, never negative."""

    flag: bool
    both: bool = False
    age_s: float | None = None
    reason: str | None = None


class OffFlags:
    """The flag in the runtime directory (lost at boot) and its durable copy."""

    def __init__(self, run_path: str, durable_path: str) -> None:
        """Name the two files; nothing is read yet."""
        self.run_path = run_path
        self.durable_path = durable_path

    def present(self) -> tuple[bool, bool]:
        """Return whether the (run, durable) flag is there. What cannot be read counts as off."""
        return _exists(self.run_path), _exists(self.durable_path)

    def read(self) -> FlagInfo:
        """Return the whole picture, the reason included."""
        run, durable = self.present()
        if not run and not durable:
            return FlagInfo(False)
        paths = [path for path, there in ((self.run_path, run), (self.durable_path, durable)) if there]
        ages, reason = [], ""
        for path in paths:
            with contextlib.suppress(OSError):
                ages.append(max(0.0, time.time() - os.lstat(path).st_mtime))
            reason = reason or _reason(path)
        return FlagInfo(True, run and durable, max(ages) if ages else None, reason or None)

    def write_run(self, reason: str) -> None:
        """Make the flag in the runtime directory if it is missing. Raises OSError only if it is then still missing."""
        _write(self.run_path, reason)

    def write_durable(self, reason: str) -> None:
        """Make the durable copy if it is missing. Raises OSError only if it is then still missing."""
        _write(self.durable_path, reason)

    def clear(self) -> None:
        """Remove both. Raises OSError if one stays; the durable one goes first, so that half a clear is still off."""
        for path in (self.durable_path, self.run_path):
            _remove(path)
        _sync_dir(os.path.dirname(self.durable_path))


def _exists(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.rmdir(path)
        else:
            os.unlink(path)


def _write(path: str, reason: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.lstat(path)
        return
    text = json.dumps({"reason": reason[:_REASON_LIMIT], "by": "ktls-agent"}) + "\n"
    # The empty file is the flag and needs no data block; a full disk may only cost the reason.
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return
    try:
        with contextlib.suppress(OSError):
            os.write(handle, text.encode())
            os.fsync(handle)
    finally:
        os.close(handle)
    with contextlib.suppress(OSError):
        _sync_dir(os.path.dirname(path))


def _sync_dir(path: str) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(path: str) -> str:
    """Return the reason in the flag: its JSON "reason", else its first line. Any content is tolerated."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            return ""
        text = os.read(handle, _READ_LIMIT).decode("utf-8", "replace")
    except OSError:
        return ""
    finally:
        os.close(handle)
    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(text)
        if isinstance(parsed, dict) and isinstance(parsed.get("reason"), str):
            text = parsed["reason"]
    printable = "".join(char if char.isprintable() else " " for char in text.strip().split("\n")[0])
    return " ".join(printable.split())[:_REASON_LIMIT]
