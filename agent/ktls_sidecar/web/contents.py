# SPDX-License-Identifier: Apache-2.0
"""Small files kept in memory, and given out only while a look at their path finds them as they were.

The look costs one lstat(2) for each name of the path, less than half of opening, reading and closing. It must be as
strict as the opening that it replaces:

- Device, inode, size, modification and change time must be those of the content. A replacement is another inode; a
  program can put the modification time back, but not the change time (inode(7)).
- Each name on the way must be a directory now, and none a link. A directory that was moved out of the tree with a link
  left in its place does not change the files in it, so the file alone would not tell.
- Times have a grain, a timer tick or, on some file systems, two seconds: what was written within the grain of a reading
  looks the same afterwards. So content is kept only of files that have rested for longer than that.
- A program that writes through a mapping moves the times once for many writes (mmap(2), msync(2)). So content is read
  anew now and then, whatever the times say.
"""

from __future__ import annotations

import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from .files import HeldFile, OpenFile

P = TypeVar("P")

KEPT_BYTES = 8 * 1024 * 1024
LARGEST = 64 * 1024
DEEPEST = 4
"""Names in a path: with more of them, opening is no dearer."""
REST_NS = 3_000_000_000
FRESH_S = 10.0


class Held(Generic[P]):
    """A file's content, and what the owner knows of it: ``place``."""

    __slots__ = ("_directories", "_identity", "_path", "file", "place", "until")

    def __init__(self, place: P, file: HeldFile, directories: tuple[bytes, ...], device: int, until: float) -> None:
        """Valid until ``until``, in seconds of the clock, if it is still there."""
        self.place = place
        self.file = file
        self.until = until
        self._directories = directories
        self._path = file.path
        self._identity = (device, file.inode, file.size, file.mtime_ns, file.ctime_ns)

    def is_there(self) -> bool:
        """True when the path leads to this very content now, without a link."""
        try:
            for directory in self._directories:
                if not stat.S_ISDIR(os.lstat(directory).st_mode):
                    return False
            now = os.lstat(self._path)
        except OSError:
            return False
        return (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) == self._identity


class Contents(Generic[P]):
    """At most ``limit`` bytes of content; what was not used for longest goes first. For one thread."""

    def __init__(
        self,
        limit: int = KEPT_BYTES,
        clock: Callable[[], float] = time.monotonic,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Start empty. ``clock`` counts seconds; ``wall_ns`` tells the time that file systems write."""
        self._limit = limit
        self._clock = clock
        self._wall_ns = wall_ns
        self._held: OrderedDict[bytes, Held[P]] = OrderedDict()
        self.size = 0
        """Bytes of content."""

    def find(self, key: bytes) -> Held[P] | None:
        """Return what is kept for ``key`` if it is what the path leads to now."""
        held = self._held.get(key)
        if held is None:
            return None
        if self._clock() < held.until and held.is_there():
            self._held.move_to_end(key)
            return held
        self._forget(key)
        return None

    def keep(self, key: bytes, place: P, file: OpenFile, root: bytes, segments: tuple[bytes, ...]) -> HeldFile | None:
        """Read ``file``, which was opened as ``segments`` below ``root``, and keep it; None where that must not be.

        Then ``file`` is as it was, and its owner's. Raises nothing.
        """
        if not 0 < file.size <= LARGEST or len(segments) > DEEPEST or not file.ctime_ns:
            return None
        if self._wall_ns() - max(file.ctime_ns, file.mtime_ns) < REST_NS:
            return None
        try:
            content = os.pread(file.fd, file.size + 1, 0)
            now = os.fstat(file.fd)
        except OSError:
            return None  # who sends it meets that again
        directories = tuple(b"/".join((root.rstrip(b"/"), *segments[:end])) for end in range(1, len(segments)))
        held = Held(place, HeldFile(file, content), directories, now.st_dev, self._clock() + FRESH_S)
        # After the reading, so that what was read is what is there.
        if len(content) != file.size or not held.is_there():
            return None
        self._forget(key)
        self._held[key] = held
        self.size += len(content)
        while self.size > self._limit:
            self._forget(next(iter(self._held)))
        return held.file

    def _forget(self, key: bytes) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            self.size -= held.file.size
