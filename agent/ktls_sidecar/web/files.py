# SPDX-License-Identifier: Apache-2.0
"""From a request target to an open file below the root, or a refusal.

No name reaches the kernel that could leave the root: segments are checked after one decoding, and the walk opens
one directory after the other without following links. A link is resolved first, its target must lie inside the
root, and then that link-free path is walked the same way, so a change in between cannot lead outside.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from dataclasses import dataclass

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for its writer.
_FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_INDEX = b"index.html"


class RefusedError(Exception):
    """The request gets ``status`` and the short ``text`` instead of a file."""

    def __init__(self, status: int, text: str) -> None:
        """Keep both."""
        self.status = status
        self.text = text
        super().__init__(f"{status} {text}")


@dataclass(frozen=True)
class Target:
    """A checked request path: its segments, and whether it names a directory (ends in a slash)."""

    segments: tuple[bytes, ...]
    directory: bool


@dataclass
class OpenFile:
    """A regular file, open for reading. The owner calls :meth:`close`."""

    fd: int
    name: str
    size: int
    mtime_ns: int
    inode: int

    @property
    def etag(self) -> str:
        """Strong validator: another inode, size or modification time is another file."""
        return f'"{self.inode:x}-{self.size:x}-{self.mtime_ns:x}"'

    def changed(self) -> bool:
        """True when the file was written to, or cut, since it was opened."""
        now = os.fstat(self.fd)
        return now.st_size != self.size or now.st_mtime_ns != self.mtime_ns

    def close(self) -> None:
        """Close the descriptor; may be called again."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


def parse_target(target: bytes) -> Target:
    """Check a request target (RFC 9112 section 3.2, origin or absolute form). Raises :class:`RefusedError`."""
    if target[:8].lower() == b"https://":
        slash = target.find(b"/", 8)
        target = target[slash:] if slash >= 0 else b"/"
    if not target.startswith(b"/"):
        raise RefusedError(400, "the request target must be a path")
    path = target.split(b"?", 1)[0]
    if b"#" in path or _BAD_ESCAPE.search(path):
        raise RefusedError(400, "the path is badly encoded")
    raw = path.split(b"/")[1:]
    segments = [_ESCAPE.sub(lambda m: bytes((int(m.group(1), 16),)), segment) for segment in raw]
    for segment in segments:
        if b"/" in segment or _CONTROL.search(segment):
            raise RefusedError(400, "the path holds an encoded slash or a control character")
        if segment in (b".", b".."):
            raise RefusedError(400, "the path holds a dot segment")
        if segment.startswith(b"."):
            raise RefusedError(403, "names that begin with a dot are not served")
    return Target(tuple(segment for segment in segments if segment), not segments[-1])


def open_target(root: str, target: Target) -> OpenFile:
    """Open the file that ``target`` names below the directory ``root``; a directory means its index.html.

    Raises :class:`RefusedError` 403 or 404, and OSError for faults of the host (no descriptors, I/O error).
    """
    if target.directory:
        return _regular(_open(root, (*target.segments, _INDEX)))
    found = _open(root, target.segments)
    if stat.S_ISDIR(found.mode):
        os.close(found.fd)
        found = _open(root, (*target.segments, _INDEX))
    return _regular(found)


@dataclass
class _Found:
    fd: int
    name: bytes
    mode: int
    size: int
    mtime_ns: int
    inode: int


def _regular(found: _Found) -> OpenFile:
    if not stat.S_ISREG(found.mode):
        os.close(found.fd)
        raise RefusedError(403 if not stat.S_ISDIR(found.mode) else 404, "not a regular file")
    return OpenFile(found.fd, os.fsdecode(found.name), found.size, found.mtime_ns, found.inode)


def _open(root: str, segments: tuple[bytes, ...]) -> _Found:
    try:
        fd = _walk(root, segments)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            raise _refusal(error) from error
        fd = _open_resolved(root, segments)
    status = os.fstat(fd)
    return _Found(fd, segments[-1], status.st_mode, status.st_size, status.st_mtime_ns, status.st_ino)


def _open_resolved(root: str, segments: tuple[bytes, ...]) -> int:
    real_root = os.path.realpath(os.fsencode(root))
    real = os.path.realpath(os.path.join(real_root, *segments))
    prefix = real_root.rstrip(b"/") + b"/"
    if not real.startswith(prefix):
        raise RefusedError(403, "this link leads out of the served tree")
    try:
        return _walk(os.fsdecode(real_root), tuple(real[len(prefix) :].split(b"/")))
    except OSError as error:
        raise _refusal(error) from error


def _walk(root: str, segments: tuple[bytes, ...]) -> int:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for segment in segments[:-1]:
            inner = os.open(segment, _DIRECTORY_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = inner
        return os.open(segments[-1], _FILE_FLAGS, dir_fd=fd)
    finally:
        os.close(fd)


def _refusal(error: OSError) -> Exception:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return RefusedError(404, "there is no such file")
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO):
        return RefusedError(403, "this file may not be served")
    return error
