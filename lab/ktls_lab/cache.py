# SPDX-License-Identifier: Apache-2.0
"""Things that are made once and kept: made beside their place under a lock, then moved into it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def lock(path: Path) -> Iterator[None]:
    """Hold an exclusive flock(2) on ``path``; waits for whoever has it. The kernel drops it with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _sweep(directory: Path) -> None:
    """Remove what killed makers left: temporary directories whose lock is free."""
    for temporary in directory.glob(".*.tmp"):
        with temporary.with_suffix(".lock").open("a") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(temporary, ignore_errors=True)


def make_once(place: Path, make: Callable[[Path], None]) -> bool:
    """Have the directory ``place``: let ``make`` fill a temporary one beside it, then rename.

    Returns:
        True when it was made now, False when it was there.
    """
    if place.is_dir():
        return False
    with lock(place.with_name(f".{place.name}.lock")):
        if place.is_dir():
            return False
        temporary = place.with_name(f".{place.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)  # of one that was killed: we hold the lock
        _sweep(place.parent)
        temporary.mkdir(parents=True)
        try:
            make(temporary)
            temporary.rename(place)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return True


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Replace ``path`` by ``text``: a reader sees the old or the new content, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
