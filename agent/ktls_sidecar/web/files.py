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

from .. import seal
from .beneath import Opener

_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_DIRECTORY_FLAGS = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: opening a FIFO must not wait for its writer.
FILE_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_opener = Opener(FILE_FLAGS)


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


class OpenFile:
    """A regular file, open for reading. The owner calls :meth:`close`.

    ``path``: the whole path it was opened by, or empty. The other fields are those of fstat(2) at the opening.
    """

    __slots__ = ("_seal", "content", "ctime_ns", "fd", "ids", "inode", "mtime_ns", "name", "nlink", "path", "size")

    content: bytes | None
    """All of it where it is held in memory; then there is no descriptor."""

    def __init__(
        self,
        fd: int,
        name: str,
        size: int,
        mtime_ns: int,
        inode: int,
        ctime_ns: int = 0,
        nlink: int = 1,
        path: bytes = b"",
        ids: tuple[int, int, int] | None = None,
    ) -> None:
        """Take over ``fd``. ``ids``: mode, owner and group, known when ``ctime_ns`` is."""
        self.fd = fd
        self.name = name
        self.size = size
        self.mtime_ns = mtime_ns
        self.inode = inode
        self.ctime_ns = ctime_ns
        self.nlink = nlink
        self.path = path
        self.ids = ids
        self.content = None
        self._seal: str | None = None

    @property
    def etag(self) -> str:
        """Strong validator: another inode, size, modification time or change time is another file.

        The change time is what a program cannot put back (inode(7)): content rewritten in place with its modification
        time restored gets another tag. The price is that chmod(2) and the like change it too.
        """
        return f'"{self.inode:x}-{self.size:x}-{self.mtime_ns:x}-{self.ctime_ns:x}"'

    def seal(self) -> str:
        """Why the content cannot change (see :func:`ktls_sidecar.seal.reason`), or empty. Asked once."""
        if self._seal is None:
            self._seal = seal.reason(self.fd)
        return self._seal

    def changed(self) -> bool:
        """True when the content may have changed since the file was opened.

        Size and modification time decide; a change time that moved alone also counts (rewritten, and the time put
        back), unless something explains it that leaves the content as it was: another number of links, mode, owner
        or seal, or a move away from its path. After such an event the new state is what is compared to.
        """
        now = os.fstat(self.fd)
        if now.st_size != self.size or now.st_mtime_ns != self.mtime_ns:
            return True
        if now.st_ctime_ns == self.ctime_ns or not self.ctime_ns:
            return False
        ids = (now.st_mode, now.st_uid, now.st_gid)
        if now.st_nlink == self.nlink and (self.ids is None or ids == self.ids):
            before, self._seal = self._seal, seal.reason(self.fd)
            # Sealed meanwhile explains it, and so does a seal taken away, as before a replacement.
            if not before and not self._seal and not self._moved(now):
                return True
        self.ctime_ns, self.nlink, self.ids = now.st_ctime_ns, now.st_nlink, ids
        return False

    def _moved(self, now: os.stat_result) -> bool:
        """True when the path leads elsewhere now; counts once."""
        path, self.path = self.path, b""
        if not path:
            return False
        try:
            there = os.stat(path)
        except OSError:
            return True
        return (there.st_dev, there.st_ino) != (now.st_dev, now.st_ino)

    def close(self) -> None:
        """Close the descriptor; may be called again."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


class HeldFile(OpenFile):
    """A file whose content is in memory. It cannot change any more, and closing it means nothing: it may be shared."""

    __slots__ = ()

    def __init__(self, file: OpenFile, content: bytes) -> None:
        """Be what ``file`` was when ``content`` was read from it."""
        super().__init__(
            -1, file.name, file.size, file.mtime_ns, file.inode, file.ctime_ns, file.nlink, file.path, file.ids
        )
        self.content = content

    def changed(self) -> bool:
        """Return False."""
        return False


def parse_target(target: bytes) -> Target:
    """Check a request target (RFC 9112 section 3.2, origin or absolute form). Raises :class:`RefusedError`."""
    path = target.split(b"?", 1)[0]
    if path[:8].lower() == b"https://":
        slash = path.find(b"/", 8)
        path = path[slash:] if slash >= 0 else b"/"
    if not path.startswith(b"/"):
        raise RefusedError(400, "the request target must be a path")
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


def open_below(root: bytes, segments: tuple[bytes, ...]) -> OpenFile | None:
    """Open what the checked ``segments`` (at least one) name below ``root``; None for a directory.

    Raises :class:`RefusedError` 403 or 404, and OSError for faults of the host.
    """
    fd = open_any(root, segments)
    try:
        status = os.fstat(fd)
        kind = stat.S_IFMT(status.st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            raise RefusedError(403, "not a regular file")
    except BaseException:
        os.close(fd)
        raise
    if kind == stat.S_IFDIR:
        os.close(fd)
        return None
    return opened(fd, os.fsdecode(segments[-1]), join(root, segments), status)


def opened(fd: int, name: str, path: bytes, status: os.stat_result) -> OpenFile:
    """Return the :class:`OpenFile` for a descriptor and its fstat(2)."""
    ids = (status.st_mode, status.st_uid, status.st_gid)
    return OpenFile(
        fd,
        name,
        status.st_size,
        status.st_mtime_ns,
        status.st_ino,
        status.st_ctime_ns,
        status.st_nlink,
        path,
        ids,
    )


def join(root: bytes, segments: tuple[bytes, ...]) -> bytes:
    """Return the whole path."""
    return b"/".join((root.rstrip(b"/"), *segments))


def open_any(root: bytes, segments: tuple[bytes, ...]) -> int:
    """Open a file or directory for reading, whatever it is, and return the descriptor. No segments: the root.

    Raises :class:`RefusedError` 403 or 404, and OSError for faults of the host.
    """
    try:
        return walk(root, segments)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.ENOTDIR):
            refusal = refusal_for(error)
            if refusal is None:
                raise
            raise refusal from error
    real_root = os.path.realpath(root)
    real = os.path.realpath(os.path.join(real_root, *segments))
    prefix = real_root.rstrip(b"/") + b"/"
    if real == real_root:
        inner: tuple[bytes, ...] = ()
    elif real.startswith(prefix):
        inner = tuple(real[len(prefix) :].split(b"/"))
    else:
        raise RefusedError(403, "this link leads out of the served tree")
    try:
        return walk(real_root, inner)
    except OSError as error:
        refusal = refusal_for(error)
        if refusal is None:
            raise
        raise refusal from error


def walk(root: bytes, segments: tuple[bytes, ...]) -> int:
    """Open checked ``segments`` below ``root`` for reading without following a link. Raises OSError.

    The root itself may be a link. ELOOP or ENOTDIR: there may be a link on the way.
    """
    if len(segments) == 1:
        # The last component is not followed, so this cannot lead out of the root.
        return os.open(b"%b/%b" % (root, segments[0]), FILE_FLAGS)
    if not segments:
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _opener.works:
            found = _opener.open(fd, b"/".join(segments))
            if found is not None:
                return found
        for segment in segments[:-1]:
            inner = os.open(segment, _DIRECTORY_FLAGS, dir_fd=fd)
            os.close(fd)
            fd = inner
        return os.open(segments[-1], FILE_FLAGS, dir_fd=fd)
    finally:
        os.close(fd)


def refusal_for(error: OSError) -> RefusedError | None:
    """Return what an error of open(2) means to a client, or None for a fault of the host."""
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
        return RefusedError(404, "there is no such file")
    if error.errno in (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENXIO):
        return RefusedError(403, "this file may not be served")
    return None
