# SPDX-License-Identifier: Apache-2.0
"""Whole files that we own: compare, then write atomically or remove.

``plan_files`` reads and decides, ``apply`` writes. Nothing is edited in place: a file is ours from the first
byte to the last, or it is not ours.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import re
import secrets
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .errors import KtlsError


@dataclass(frozen=True)
class FileSpec:
    """A file as it shall be. ``content`` of ``None`` means that it shall not exist.

    ``owner`` and ``group`` are names, or numbers in decimal for those who have no name.
    """

    path: str
    content: bytes | None = field(repr=False)  # may be a secret
    mode: int = 0o644
    owner: str = "root"
    group: str = "root"

    @classmethod
    def absent(cls, path: str) -> FileSpec:
        """Return the wish that nothing is at ``path``."""
        return cls(path, None)


@dataclass(frozen=True)
class FileChange:
    """One difference between a :class:`FileSpec` and the host.

    ``action`` is ``create``, ``replace``, ``attributes`` (content is right, mode or owner is not) or
    ``remove``. ``target`` is the path under ``root``, which was planned for.
    """

    action: str
    spec: FileSpec
    target: str
    before: bytes | None = field(repr=False)
    before_attributes: str
    root: str = "/"

    def diff(self) -> dict[str, str]:
        """Return Ansible's diff form; bytes that are not UTF-8 are shown with replacement characters."""
        after_attributes = "" if self.spec.content is None else _attributes(self.spec)
        with_attributes = self.action == "attributes"
        return {
            "before_header": f"{self.spec.path} {self.before_attributes}".strip(),
            "after_header": f"{self.spec.path} {after_attributes}".strip(),
            "before": f"{self.before_attributes}\n" if with_attributes else _text(self.before),
            "after": f"{after_attributes}\n" if with_attributes else _text(self.spec.content),
        }


def plan_files(specs: Iterable[FileSpec], root: str = "/") -> list[FileChange]:
    """Compare ``specs`` with the files under ``root``; return only what differs.

    Raises :class:`KtlsError`: ``symlink_in_the_way``, ``not_a_file``, ``unsafe_directory`` (a parent that
    everybody may write to), ``read_failed``.
    """
    changes = (_plan_one(spec, root) for spec in specs)
    return [change for change in changes if change is not None]


def apply(changes: Iterable[FileChange]) -> None:
    """Make the changes, each one atomic. Missing parent directories are made with mode 0755.

    Raises :class:`KtlsError` with ``write_failed``, ``no_such_user``, ``no_such_group`` or a refusal of
    :func:`plan_files`; the file is then as it was before.
    """
    for change in changes:
        _refuse_unsafe(change.target, change.root)
        if change.spec.content is None:
            _remove(change.target)
            continue
        uid, gid = _ids(change.spec)
        try:
            os.makedirs(os.path.dirname(change.target), mode=0o755, exist_ok=True)
        except OSError as error:
            raise _write_failed(change.target, error) from error
        atomic_write(change.target, change.spec.content, change.spec.mode, uid, gid)


def atomic_write(
    path: str,
    data: bytes,
    mode: int = 0o644,
    uid: int = -1,
    gid: int = -1,
    finish: Callable[[str], None] | None = None,
) -> None:
    """Put ``data`` at ``path`` so that a reader, or a crash, sees the old file or the new one and nothing
    else.

    Temporary file in the same directory, fsync, rename(2), fsync of the directory. ``uid`` and ``gid`` of -1
    keep those of the process. ``finish`` is called with the temporary file's path, before anybody sees it.
    Raises :class:`KtlsError` ``write_failed`` or ``symlink_in_the_way``.
    """
    if os.path.islink(path):
        raise KtlsError("symlink_in_the_way", f"{path} is a symbolic link where a file should be; remove it")
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{name}.{secrets.token_hex(6)}.tmp")
    try:
        _write_new(temporary, data, mode, uid, gid)
        try:
            if finish is not None:
                finish(temporary)
            os.rename(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise
        _sync_directory(directory)
    except OSError as error:
        raise _write_failed(path, error) from error


def sweep(path: str) -> None:
    """Remove temporary files that an :func:`atomic_write` to ``path`` left when its process was killed.

    Only for a caller who knows that nobody writes ``path`` now. Never raises: litter is no reason to stop.
    """
    directory, name = os.path.split(os.path.abspath(path))
    pattern = re.compile(re.escape(f".{name}.") + r"[0-9a-f]{12}\.tmp\Z")
    with contextlib.suppress(OSError):
        for found in os.listdir(directory):
            if pattern.match(found):
                os.unlink(os.path.join(directory, found))


def _write_new(path: str, data: bytes, mode: int, uid: int, gid: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            # Owner first: chown(2) clears set-id bits, and a secret must not be readable by the wrong group.
            if (uid, gid) != (-1, -1):
                os.fchown(descriptor, uid, gid)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise


def _sync_directory(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(target: str) -> None:
    try:
        os.unlink(target)
        _sync_directory(os.path.dirname(target))
    except FileNotFoundError:
        return
    except OSError as error:
        message = f"cannot remove {target} ({error.strerror}); check the file system and run as root"
        raise KtlsError("write_failed", message) from error


def _plan_one(spec: FileSpec, root: str) -> FileChange | None:
    target = os.path.join(root, spec.path.lstrip("/"))
    _refuse_unsafe(target, root)
    try:
        found = os.lstat(target)
    except (FileNotFoundError, NotADirectoryError):
        if spec.content is None:
            return None
        return FileChange("create", spec, target, None, "", root)
    try:
        with open(target, "rb") as stream:
            before = stream.read()
    except OSError as error:
        message = f"cannot read {target} ({error.strerror}); run as root"
        raise KtlsError("read_failed", message) from error
    attributes = _found_attributes(found)
    if spec.content is None:
        return FileChange("remove", spec, target, before, attributes, root)
    if before != spec.content:
        return FileChange("replace", spec, target, before, attributes, root)
    if attributes != _attributes(spec):
        return FileChange("attributes", spec, target, before, attributes, root)
    return None


def _refuse_unsafe(target: str, root: str) -> None:
    """Refuse what an unprivileged user could have prepared for us to follow or to lose."""
    try:
        found = os.lstat(target)
    except (FileNotFoundError, NotADirectoryError):
        pass
    else:
        if stat.S_ISLNK(found.st_mode):
            message = f"{target} is a symbolic link where a file should be; look where it leads and remove it"
            raise KtlsError("symlink_in_the_way", message)
        if not stat.S_ISREG(found.st_mode):
            raise KtlsError("not_a_file", f"{target} exists and is not a regular file; move it away")
    top = os.path.realpath(root)
    parent = os.path.realpath(os.path.dirname(target))
    while True:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if os.stat(parent).st_mode & stat.S_IWOTH:
                message = f"{parent} is writable by everybody, so {target} is not safe; chmod o-w {parent}"
                raise KtlsError("unsafe_directory", message)
        if parent in (top, "/"):
            return
        parent = os.path.dirname(parent)


def _ids(spec: FileSpec) -> tuple[int, int]:
    try:
        uid = int(spec.owner) if spec.owner.isdigit() else pwd.getpwnam(spec.owner).pw_uid
    except KeyError as error:
        message = f"{spec.path} shall belong to user {spec.owner!r}, who is not on this host; create the user"
        raise KtlsError("no_such_user", message) from error
    try:
        gid = int(spec.group) if spec.group.isdigit() else grp.getgrnam(spec.group).gr_gid
    except KeyError as error:
        message = f"{spec.path} shall belong to group {spec.group!r}, which is not on this host; create it"
        raise KtlsError("no_such_group", message) from error
    return uid, gid


def _attributes(spec: FileSpec) -> str:
    return f"{spec.mode:04o} {spec.owner}:{spec.group}"


def _found_attributes(found: os.stat_result) -> str:
    owner, group = str(found.st_uid), str(found.st_gid)
    with contextlib.suppress(KeyError):
        owner = pwd.getpwuid(found.st_uid).pw_name
    with contextlib.suppress(KeyError):
        group = grp.getgrgid(found.st_gid).gr_name
    return f"{stat.S_IMODE(found.st_mode):04o} {owner}:{group}"


def _text(content: bytes | None) -> str:
    return "" if content is None else content.decode("utf-8", "replace")


def _write_failed(path: str, error: OSError) -> KtlsError:
    message = f"cannot write {path} ({error.strerror}); it is as before: free space, or run as root, and repeat"
    return KtlsError("write_failed", message)
