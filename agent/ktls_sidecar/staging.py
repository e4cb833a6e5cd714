# SPDX-License-Identifier: Apache-2.0
"""Put a file where readers, and a crash, see the old one or the new one whole; sealed if that can be done.

A new file is written beside its destination, made durable, sealed and renamed. fs-verity is on before the rename. The
immutable attribute forbids renaming, so there it is set right after, and taken off the old file right before: a crash
in between leaves old or new content whole but unsealed, and publishing again seals it.

A directory is locked by flock(2) while it is worked in, so what is left there by a killed run is known to be litter.
Names of unfinished files begin with a dot, and such names are never served.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ktls_host.errors import KtlsError

from . import seal

SEALS = ("auto", "verity", "immutable", "none")
_PIECE = 1024 * 1024
_TEMPORARY = re.compile(r"\.ktls-publish\.[0-9a-f]{16}")
_LOCK_WAIT_S = 30.0
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

reached: Callable[[str], None] = lambda step: None  # noqa: E731
"""Called with the name of each step when it is done; tests kill the process there."""


@dataclass(frozen=True)
class Staged:
    """A complete new file beside ``destination``. ``seal``: what holds, or will hold it; ``why``: what does not."""

    temporary: str
    destination: str
    seal: str
    why: str = ""

    def discard(self) -> None:
        """Remove it. Never raises."""
        with contextlib.suppress(OSError):
            os.unlink(self.temporary)

    def commit(self) -> None:
        """Show it to the world. Raises OSError, and then the old file is as it was, and KtlsError ``seal_failed``."""
        fd = os.open(self.temporary, _READ)
        try:
            with _unsealed(self.destination):
                os.rename(self.temporary, self.destination)
                reached("renamed")
            sync_directory(os.path.dirname(self.destination))
            reached("directory synced")
            if self.seal == seal.IMMUTABLE:
                self._set_immutable(fd)
                reached("sealed")
        finally:
            os.close(fd)

    def _set_immutable(self, fd: int) -> None:
        try:
            seal.set_immutable(fd, True)
            os.fsync(fd)
        except OSError as error:
            message = f"{self.destination} is published whole, but not sealed ({error.strerror}); publish it again"
            raise KtlsError("seal_failed", message) from error


def stage(source: str, destination: str, how: str) -> Staged:
    """Copy ``source`` to a new file beside ``destination``, which is an absolute path, and seal it by ``how``.

    ``how`` is one of :data:`SEALS`. The copy keeps the modification time and loses write permission. Raises KtlsError
    ``source_changed``, ``not_a_file``, ``seal_failed``, and OSError. Nothing is left behind then.
    """
    check_destination(destination)
    temporary = temporary_beside(destination)
    reader = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        before = os.fstat(reader)
        if not stat.S_ISREG(before.st_mode):
            raise KtlsError("not_a_file", f"{source} is not a regular file; name a file, or a directory with -r")
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                reached("created")
                _copy(reader, fd)
                if _stamp(os.fstat(reader)) != _stamp(before):
                    message = f"{source} was written to while it was read; try again when it is complete"
                    raise KtlsError("source_changed", message)
                os.fsync(fd)
                reached("written")
            finally:
                os.close(fd)
            # fs-verity wants nobody to have the file open for writing.
            fd = os.open(temporary, _READ)
            try:
                holds, why = _seal(fd, how)
                os.fchmod(fd, stat.S_IMODE(before.st_mode) & 0o444 | 0o400)
                os.utime(fd, ns=(before.st_mtime_ns, before.st_mtime_ns))
                os.fsync(fd)
                reached("staged")
            finally:
                os.close(fd)
        except BaseException:
            _unlink_sealed(temporary)
            raise
    finally:
        os.close(reader)
    return Staged(temporary, destination, holds, why)


def stage_link(target: str, destination: str) -> Staged:
    """Make a symbolic link to be renamed to ``destination``. Raises KtlsError ``not_a_file`` and OSError."""
    check_destination(destination, link=True)
    temporary = temporary_beside(destination)
    os.symlink(target, temporary)
    return StagedLink(temporary, destination, "")


class StagedLink(Staged):
    """A link instead of a file."""

    def commit(self) -> None:
        """Show it to the world."""
        with _unsealed(self.destination):
            os.rename(self.temporary, self.destination)
        sync_directory(os.path.dirname(self.destination))


def remove_file(path: str) -> None:
    """Remove a file, sealed or not, or a link; durable on return. Raises OSError."""
    with _unsealed(path):
        os.unlink(path)
    sync_directory(os.path.dirname(path))


def remove_tree(path: str) -> None:
    """Remove a directory: gone from sight at once, then from the disk. Raises OSError."""
    temporary = temporary_beside(path)
    os.rename(path, temporary)
    sync_directory(os.path.dirname(path))
    reached("hidden")
    _empty(temporary)


def temporary_beside(destination: str) -> str:
    """Return a free name in the same directory that :func:`locked` knows for litter."""
    return os.path.join(os.path.dirname(destination), f".ktls-publish.{secrets.token_hex(8)}")


def check_destination(destination: str, link: bool = False) -> None:
    """Raise KtlsError ``not_a_file`` when something is there that must not be replaced."""
    try:
        mode = os.lstat(destination).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISREG(mode) or (link and stat.S_ISLNK(mode)):
        return
    kind = "a symbolic link" if stat.S_ISLNK(mode) else "a directory" if stat.S_ISDIR(mode) else "a special file"
    raise KtlsError("not_a_file", f"{destination} is {kind}; remove it first, or name another destination")


@contextlib.contextmanager
def locked(directory: str) -> Iterator[None]:
    """Hold ``directory`` against other runs and sweep what killed ones left. Raises KtlsError ``busy`` and OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _lock(fd, directory):
            for name in os.listdir(directory):
                if _TEMPORARY.fullmatch(name):
                    _sweep(os.path.join(directory, name))
        yield
    finally:
        os.close(fd)


def sync_directory(directory: str) -> None:
    """Make renames in ``directory`` durable. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(fd: int, directory: str) -> bool:
    """Return False where the file system has no such locks."""
    end = time.monotonic() + _LOCK_WAIT_S
    try:
        while not _try_lock(fd):
            if time.monotonic() > end:
                raise KtlsError("busy", f"another ktls-publish works in {directory}; try again later")
            time.sleep(0.1)
    except OSError:
        return False
    return True


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _copy(reader: int, writer: int) -> None:
    while piece := os.read(reader, _PIECE):
        view = memoryview(piece)
        while view:
            view = view[os.write(writer, view) :]


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _seal(fd: int, how: str) -> tuple[str, str]:
    """Seal by fs-verity, or find out whether the immutable attribute can be set. Returns (seal, why not)."""
    if how == "none":
        return "", "as asked"
    reasons = []
    if how in ("auto", "verity"):
        try:
            seal.enable_verity(fd)
            reached("verity")
            return seal.VERITY, ""
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            reasons.append(f"no fs-verity ({_verity_words(error)})")
    if how in ("auto", "immutable"):
        try:
            # Only a try: an immutable file could not be renamed. Root alone may, and not every file system can.
            seal.set_immutable(fd, True)
            seal.set_immutable(fd, False)
            return seal.IMMUTABLE, ""
        except OSError as error:
            reasons.append(f"no immutable attribute ({_immutable_words(error)})")
    if how != "auto":
        raise KtlsError("seal_failed", f"cannot seal: {reasons[0]}; nothing was published")
    return "", ", ".join(reasons)


def _verity_words(error: OSError) -> str:
    if error.errno == errno.EOPNOTSUPP:
        return "the file system can, but the feature is off; ext4: tune2fs -O verity"
    if error.errno == errno.ENOTTY:
        return "the file system or kernel has none"
    return error.strerror or str(error)


def _immutable_words(error: OSError) -> str:
    if error.errno == errno.EPERM:
        return "needs root, CAP_LINUX_IMMUTABLE"
    if error.errno in (errno.ENOTTY, errno.EOPNOTSUPP):
        return "the file system has none"
    return error.strerror or str(error)


@contextlib.contextmanager
def _unsealed(path: str) -> Iterator[None]:
    """Take the immutable attribute off ``path`` for the block, and put it back if the block fails."""
    try:
        fd = os.open(path, _READ)
    except OSError:
        # Not there, a link, or not readable: then the block itself says what is wrong.
        yield
        return
    try:
        try:
            was = bool(seal.get_flags(fd) & seal.FS_IMMUTABLE_FL)
        except OSError:
            was = False
        if was:
            try:
                seal.set_immutable(fd, False)
            except OSError as error:
                message = f"{path} is immutable and stays: {_immutable_words(error)}; run as root"
                raise KtlsError("sealed", message) from error
            reached("unsealed")
        try:
            yield
        except BaseException:
            if was:
                with contextlib.suppress(OSError):
                    seal.set_immutable(fd, True)
            raise
    finally:
        os.close(fd)


def _unlink_sealed(path: str) -> None:
    with contextlib.suppress(OSError, KtlsError), _unsealed(path):
        os.unlink(path)


def _empty(path: str) -> None:
    for entry in list(os.scandir(path)):
        if entry.is_dir(follow_symlinks=False):
            _empty(entry.path)
        else:
            with _unsealed(entry.path):
                os.unlink(entry.path)
    os.rmdir(path)


def _sweep(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        with contextlib.suppress(OSError, KtlsError):
            _empty(path)
    else:
        _unlink_sealed(path)
