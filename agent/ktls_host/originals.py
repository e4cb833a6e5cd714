# SPDX-License-Identifier: Apache-2.0
"""What a host was like before a lever first changed it, kept until the lever is taken back.

A record is durable before the first change that it is about, so whoever dies between any two steps leaves a host
that can be put back. Each file is recorded whole (content, mode, owner, extended attributes, time, or absence), with
the hashes of everything that the lever has put there since. A file that is neither as it was nor as we left it was
edited by somebody else: it is left alone and named.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from . import files
from .errors import KtlsError
from .files import FileChange, FileSpec

DIRECTORY = "/var/lib/ktls-levers"
LOCK = "/run/ktls-levers.lock"
RELEASE = "release"
"""Name of the record of the release itself, which is no lever (:mod:`ktls_host.release_record`)."""
LOCK_WAIT_S = 30.0
_SCHEMA = 1
_ABSENT = "absent"
_POLL_S = 0.05


@dataclass(frozen=True)
class Original:
    """A file as it was. ``content`` of ``None``: there was none, and the other members mean nothing."""

    path: str
    content: bytes | None = field(repr=False)
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()

    @property
    def attributes(self) -> str:
        """Return mode and owner for people, empty for a file that was not there."""
        return "" if self.content is None else f"{self.mode:04o} {self.uid}:{self.gid}"


@dataclass(frozen=True)
class FileRecord:
    """``ours`` are SHA-256 digests of what the lever wrote, or ``absent`` where it removed the file.

    ``made`` are the parent directories that did not exist, outermost first.
    """

    original: Original
    ours: tuple[str, ...] = ()
    made: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """``facts`` is what is not a file, for example whether a module was loaded; plain JSON types."""

    lever: str
    facts: dict[str, Any]
    files: tuple[FileRecord, ...] = ()

    def of(self, path: str) -> FileRecord | None:
        """Return the record of one file."""
        return next((found for found in self.files if found.original.path == path), None)


@dataclass(frozen=True)
class Adoption:
    """What :func:`plan` found: the changes to make, and the record that must be durable before them."""

    changes: tuple[FileChange, ...]
    record: Record
    known: Record | None
    root: str = "/"


@dataclass(frozen=True)
class Restoration:
    """What :func:`plan_restore` found. ``edited`` are paths that somebody else changed meanwhile.

    ``diffs`` are in Ansible's form, one for each file that goes back.
    """

    record: Record | None
    back: tuple[FileRecord, ...] = ()
    edited: tuple[str, ...] = ()
    diffs: tuple[dict[str, str], ...] = ()
    root: str = "/"

    @property
    def facts(self) -> dict[str, Any]:
        """Return what was recorded beside files; empty when nothing was."""
        return self.record.facts if self.record else {}

    def refuse_edited(self) -> None:
        """Raise :class:`KtlsError` ``edited_meanwhile`` when a file was edited by somebody else."""
        if self.edited:
            raise _edited(self.edited)


@contextlib.contextmanager
def lock(root: str = "/", wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Hold the one lock of all levers of this host, from before the probe until after the last change.

    Raises :class:`KtlsError` ``levers_busy`` when another process keeps it longer than ``wait_s`` seconds, and
    ``lock_failed`` when it cannot be had at all. The kernel drops it when its holder dies (flock(2)).
    """
    path = _under(root, LOCK)
    try:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise KtlsError("lock_failed", f"cannot open {path} ({error.strerror}); run as root") from error
    try:
        _wait_for(descriptor, path, wait_s)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def load(lever: str, root: str = "/") -> Record | None:
    """Return the record of ``lever``, ``None`` when the lever has changed nothing that is not back.

    Raises :class:`KtlsError` ``record_unreadable``.
    """
    path = _under(root, record_path(lever))
    try:
        with open(path, "rb") as stream:
            raw = stream.read()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise KtlsError("record_unreadable", f"cannot read {path} ({error.strerror}); run as root") from error
    try:
        return _parse(raw)
    except (ValueError, KeyError, TypeError) as error:
        message = (
            f"{path} is not a record of this release ({error}), so what was there before is not known; "
            f"put the files of lever {lever} back from your backup, then remove the record"
        )
        raise KtlsError("record_unreadable", message) from error


def levers(root: str = "/") -> tuple[str, ...]:
    """Return the names of the levers that have a record, in order. Unreadable records are named by their file."""
    names = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
        for name in os.listdir(_under(root, DIRECTORY)):
            if name.endswith(".json") and not name.startswith("."):
                try:
                    with open(os.path.join(_under(root, DIRECTORY), name), "rb") as stream:
                        names.append(_parse(stream.read()).lever)
                except (OSError, ValueError, KeyError, TypeError):
                    names.append(name)
    return tuple(sorted(name for name in names if name != RELEASE))


def plan(lever: str, specs: Iterable[FileSpec], facts: dict[str, Any] | None = None, root: str = "/") -> Adoption:
    """Compare ``specs`` with the host, and add to the record what it does not know yet. Only reads.

    ``facts`` count only for a lever without a record: the first state is the original one. Raises
    :class:`KtlsError`: ``edited_meanwhile``, ``record_unreadable``, and those of
    :func:`ktls_host.files.plan_files`.
    """
    wanted = list(specs)
    changes = tuple(files.plan_files(wanted, root))
    known = load(lever, root)
    record = known or Record(lever, dict(facts or {}))
    edited = []
    for spec in wanted:
        found = record.of(spec.path)
        if found is None:
            found = FileRecord(read(spec.path, root), made=missing_parents(spec.path, root))
        elif not as_left(found, root) and not as_it_was(found.original, root):
            edited.append(spec.path)
        digest = digest_of(spec.content)
        if digest not in found.ours:
            found = replace(found, ours=(*found.ours, digest))
        others = tuple(other for other in record.files if other.original.path != spec.path)
        record = replace(record, files=(*others, found))
    if edited and changes:
        raise _edited(edited)
    return Adoption(changes, record, known, root)


def commit(adoption: Adoption) -> None:
    """Make the record durable, then the changes. Raises :class:`KtlsError` of :func:`ktls_host.files.apply`."""
    if adoption.record != adoption.known:
        save(adoption.record, adoption.root)
    for change in adoption.changes:
        files.sweep(change.target)
    files.apply(adoption.changes)


def save(record: Record, root: str = "/") -> None:
    """Write the record, durable when this returns. Raises :class:`KtlsError` ``write_failed``."""
    path = _under(root, record_path(record.lever))
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    except OSError as error:
        message = (
            f"cannot make {os.path.dirname(path)} ({error.strerror}); nothing was changed: free space or run as root"
        )
        raise KtlsError("write_failed", message) from error
    files.sweep(path)
    files.atomic_write(path, _serialise(record), 0o600)


def plan_restore(lever: str, root: str = "/", *, keep_edited: bool = False) -> Restoration:
    """Return how to put the files of ``lever`` back. Only reads.

    With ``keep_edited`` files that somebody else edited stay as they are and count as back. Raises
    :class:`KtlsError`: ``record_unreadable`` and the refusals of :func:`ktls_host.files.plan_files`.
    """
    record = load(lever, root)
    if record is None:
        return Restoration(None, root=root)
    back: list[FileRecord] = []
    edited: list[str] = []
    diffs: list[dict[str, str]] = []
    for found in record.files:
        if as_it_was(found.original, root):
            continue
        if not as_left(found, root):
            edited.append(found.original.path)
            continue
        now = read(found.original.path, root)
        back.append(found)
        diffs.append(
            {
                "before_header": f"{found.original.path} {now.attributes}".strip(),
                "after_header": f"{found.original.path} {found.original.attributes}".strip(),
                "before": _text(now.content),
                "after": _text(found.original.content),
            }
        )
    return Restoration(record, tuple(back), () if keep_edited else tuple(edited), tuple(diffs), root)


def restore_files(restoration: Restoration) -> None:
    """Put the files back, last changed first, and remove directories that were made for them and are empty.

    May be called again after any interruption. Raises :class:`KtlsError` ``write_failed`` and the refusals of
    :func:`ktls_host.files.plan_files`.
    """
    root = restoration.root
    for found in reversed(restoration.back):
        original = found.original
        target = _under(root, original.path)
        if original.content is None:
            files.apply(files.plan_files([FileSpec.absent(original.path)], root))
        else:
            files.atomic_write(target, original.content, original.mode, original.uid, original.gid, _extras(original))
    for found in restoration.record.files if restoration.record else ():
        files.sweep(_under(root, found.original.path))
        for directory in reversed(found.made):
            with contextlib.suppress(OSError):  # not empty: somebody else uses it now
                os.rmdir(_under(root, directory))


def forget(restoration: Restoration) -> None:
    """Drop the record once everything is back; with edited files left, keep it for these alone.

    Raises :class:`KtlsError` ``write_failed``.
    """
    record = restoration.record
    if record is None:
        return
    if restoration.edited:
        left = tuple(found for found in record.files if found.original.path in restoration.edited)
        save(replace(record, files=left), restoration.root)
        return
    path = _under(restoration.root, record_path(record.lever))
    files.sweep(path)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    except OSError as error:
        raise KtlsError("write_failed", f"cannot remove {path} ({error.strerror}); run as root") from error


def read(path: str, root: str = "/") -> Original:
    """Return the file as it is now. Raises :class:`KtlsError` of :func:`ktls_host.files.plan_files`."""
    target = _under(root, path)
    files.plan_files([FileSpec.absent(path)], root)  # refuses links, odd files and unsafe directories
    try:
        with open(target, "rb") as stream:
            content = stream.read()
            found = os.fstat(stream.fileno())
    except (FileNotFoundError, NotADirectoryError):
        return Original(path, None)
    except OSError as error:
        raise KtlsError("read_failed", f"cannot read {target} ({error.strerror}); run as root") from error
    return Original(
        path, content, found.st_mode & 0o7777, found.st_uid, found.st_gid, found.st_mtime_ns, _xattrs(target)
    )


def record_path(lever: str) -> str:
    """Return where the record of ``lever`` is; other characters than these become hexadecimal."""
    name = re.sub(r"[^A-Za-z0-9.@:_-]", lambda odd: f"%{ord(odd[0]):02x}", lever)
    return f"{DIRECTORY}/{name}.json"


def _wait_for(descriptor: int, path: str, wait_s: float) -> None:
    deadline = time.monotonic() + wait_s
    while not _taken(descriptor):
        if time.monotonic() >= deadline:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            message = f"process {holder} is changing this host (it holds {path}); wait until it ends, then repeat"
            raise KtlsError("levers_busy", message)
        time.sleep(_POLL_S)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def as_it_was(original: Original, root: str = "/") -> bool:
    """Return whether a file is what it was. Time does not count: one untouched, of another time, is still as it was."""
    now = read(original.path, root)
    if original.content is None or now.content is None:
        return original.content is now.content
    return replace(now, mtime_ns=0) == replace(original, mtime_ns=0)


def as_left(found: FileRecord, root: str = "/") -> bool:
    """Return whether a file is what we put there."""
    return digest_of(read(found.original.path, root).content) in found.ours


def digest_of(content: bytes | None) -> str:
    """Return how a record names content: its SHA-256, or a word for no file at all. Pure."""
    return _ABSENT if content is None else hashlib.sha256(content).hexdigest()


def missing_parents(path: str, root: str = "/") -> tuple[str, ...]:
    """Return the directories above ``path`` that do not exist, outermost first."""
    missing = []
    parent = os.path.dirname(path)
    while parent not in ("/", "") and not os.path.isdir(_under(root, parent)):
        missing.append(parent)
        parent = os.path.dirname(parent)
    return tuple(reversed(missing))


def _xattrs(target: str) -> tuple[tuple[str, bytes], ...]:
    """SELinux labels, POSIX ACLs, capabilities: empty where the file system has none (xattr(7))."""
    with contextlib.suppress(OSError):
        return tuple((name, os.getxattr(target, name)) for name in sorted(os.listxattr(target)))
    return ()


def _extras(original: Original) -> Callable[[str], None]:
    def set_them(path: str) -> None:
        for name, value in original.xattrs:
            with contextlib.suppress(OSError):  # a label that the file was born with anyway, or not ours to set
                os.setxattr(path, name, value)
        with contextlib.suppress(OSError):
            os.utime(path, ns=(original.mtime_ns, original.mtime_ns))

    return set_them


def _edited(paths: Iterable[str]) -> KtlsError:
    named = ", ".join(sorted(paths))
    message = (
        f"{named} was edited by somebody else since ktls-fleet wrote it; nothing was changed: take our part out "
        f"by hand, or say that the file shall stay as it is (edited: keep), then repeat"
    )
    return KtlsError("edited_meanwhile", message)


def _serialise(record: Record) -> bytes:
    plain = {
        "schema": _SCHEMA,
        "lever": record.lever,
        "facts": record.facts,
        "files": [
            {
                "path": found.original.path,
                "content": _encode(found.original.content),
                "mode": found.original.mode,
                "uid": found.original.uid,
                "gid": found.original.gid,
                "mtime_ns": found.original.mtime_ns,
                "xattrs": {name: _encode(value) for name, value in found.original.xattrs},
                "ours": list(found.ours),
                "made": list(found.made),
            }
            for found in record.files
        ],
    }
    return json.dumps(plain, indent=1, sort_keys=True).encode() + b"\n"


def _parse(raw: bytes) -> Record:
    plain = json.loads(raw)
    if not isinstance(plain, dict) or plain.get("schema") != _SCHEMA:
        raise ValueError("unknown schema")
    if not isinstance(plain["lever"], str) or not isinstance(plain["facts"], dict):
        raise ValueError("lever or facts of the wrong type")
    return Record(plain["lever"], plain["facts"], tuple(_parse_file(entry) for entry in plain["files"]))


def _parse_file(entry: dict[str, Any]) -> FileRecord:
    path, mode, uid, gid, mtime = (entry[name] for name in ("path", "mode", "uid", "gid", "mtime_ns"))
    if not isinstance(path, str) or not all(type(number) is int for number in (mode, uid, gid, mtime)):
        raise ValueError("file entry of the wrong type")
    content = None if entry["content"] is None else base64.b64decode(entry["content"], validate=True)
    xattrs = tuple(sorted((name, base64.b64decode(value, validate=True)) for name, value in entry["xattrs"].items()))
    original = Original(path, content, mode, uid, gid, mtime, xattrs)
    return FileRecord(original, tuple(map(str, entry["ours"])), tuple(map(str, entry["made"])))


def _encode(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")


def _text(content: bytes | None) -> str:
    return "" if content is None else content.decode("utf-8", "replace")


def _under(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))
