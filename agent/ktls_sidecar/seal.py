# SPDX-License-Identifier: Apache-2.0
"""Seals: what makes the content of a file unchangeable, and the proof that it is.

fs-verity (Documentation/filesystems/fsverity.rst) is for good: a sealed file can be renamed, replaced and removed but
never written to again. The immutable attribute (ioctl_iflags(2)) also forbids rename and removal, and root can take it
away. Numbers: include/uapi/linux/fs.h and include/uapi/linux/fsverity.h.
"""

from __future__ import annotations

import fcntl
import os
import platform
import struct
import time
from collections.abc import Callable

FS_IMMUTABLE_FL = 0x10
FS_APPEND_FL = 0x20
FS_VERITY_FL = 0x00100000
_HASH_SHA256 = 1
_ENABLE_ARG = struct.Struct("=IIIIQIIQ88x")

VERITY, IMMUTABLE, READ_ONLY = "fs-verity", "immutable", "read-only file system"

Ioctl = Callable[[int, int, bytearray], object]

# Where the content below a read-only superblock is on this host alone. Not nfs, cifs, 9p, fuse: their server may write.
# Not overlay: its layers are directories of file systems that others may write to.
_LOCAL = frozenset(("btrfs", "cramfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "iso9660", "squashfs", "udf", "xfs"))
_MOUNTS_VALID_S = 1.0
_mounts: tuple[float, frozenset[str]] | None = None


def _number(write: bool, number: int, size: int) -> int:
    """Return an ioctl number as _IOR or _IOW of type 'f' does (include/uapi/asm-generic/ioctl.h; powerpc's own)."""
    power = platform.machine().startswith("ppc")
    direction = (4 if write else 2) << 29 if power else (1 if write else 2) << 30
    return direction | size << 16 | ord("f") << 8 | number


# "long" in the numbers, but the kernel reads and writes an int (ioctl_iflags(2)).
_LONG = struct.calcsize("@l")
FS_IOC_GETFLAGS = _number(False, 1, _LONG)
FS_IOC_SETFLAGS = _number(True, 2, _LONG)
FS_IOC_ENABLE_VERITY = _number(True, 133, _ENABLE_ARG.size)


def _ioctl(fd: int, number: int, argument: bytearray) -> object:
    return fcntl.ioctl(fd, number, argument, True)


def get_flags(fd: int, ioctl: Ioctl = _ioctl) -> int:
    """Return the FS_*_FL bits of an open file. Raises OSError (ENOTTY: this file system has none)."""
    argument = bytearray(8)
    ioctl(fd, FS_IOC_GETFLAGS, argument)
    return int(struct.unpack_from("=I", argument)[0])


def set_immutable(fd: int, value: bool, ioctl: Ioctl = _ioctl) -> None:
    """Set or clear the immutable attribute. Raises OSError (EPERM: needs CAP_LINUX_IMMUTABLE)."""
    flags = get_flags(fd, ioctl)
    wanted = flags | FS_IMMUTABLE_FL if value else flags & ~FS_IMMUTABLE_FL
    if wanted != flags:
        ioctl(fd, FS_IOC_SETFLAGS, bytearray(struct.pack("=I4x", wanted)))


def enable_verity(fd: int, ioctl: Ioctl = _ioctl) -> None:
    """Seal a file by fs-verity, SHA-256. ``fd`` is open for reading only, and nobody has it open for writing.

    Raises OSError: EOPNOTSUPP or ENOTTY (not this file system, or its feature is off), ETXTBSY (somebody writes),
    EACCES (not writable by the caller), EINVAL (block size).
    """
    size = os.fstatvfs(fd).f_bsize
    # Before Linux 6.3 the block of the tree has to be the page, and on ext4 that of the file system.
    block = size if size in (1024, 2048, 4096, 8192, 16384, 32768, 65536) else os.sysconf("SC_PAGE_SIZE")
    ioctl(fd, FS_IOC_ENABLE_VERITY, bytearray(_ENABLE_ARG.pack(1, _HASH_SHA256, block, 0, 0, 0, 0, 0)))


def reason(fd: int, ioctl: Ioctl = _ioctl) -> str:
    """Return what proves that the content behind ``fd`` cannot change now, or the empty string. Never raises.

    One ioctl(2) and at most one fstatvfs(2). A read-only mount proves nothing by itself: it may be a bind mount of what
    is writable elsewhere, as ProtectSystem= of systemd.exec(5) makes of everything. So the superblock has to be
    read-only, which /proc/self/mountinfo tells (proc_pid_mountinfo(5)); read at most once a second, and only when the
    mount is read-only.
    """
    try:
        flags = get_flags(fd, ioctl)
    except (OSError, ValueError):
        flags = 0
    if flags & FS_VERITY_FL:
        return VERITY
    if flags & FS_IMMUTABLE_FL:
        return IMMUTABLE
    try:
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            device = os.fstat(fd).st_dev
            if f"{os.major(device)}:{os.minor(device)}" in _read_only_devices():
                return READ_ONLY
    except (OSError, ValueError):
        pass
    return ""


def is_immutable(fd: int, ioctl: Ioctl = _ioctl) -> bool:
    """True when the content behind ``fd`` is proved not to change. Never raises."""
    return reason(fd, ioctl) != ""


def _read_only_devices() -> frozenset[str]:
    global _mounts
    now = time.monotonic()
    if _mounts is None or not 0 <= now - _mounts[0] < _MOUNTS_VALID_S:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            _mounts = (now, read_only_devices(file.read()))
    return _mounts[1]


def read_only_devices(mountinfo: str) -> frozenset[str]:
    """Return ``major:minor`` of the local file systems whose superblock is read-only, from the text of mountinfo."""
    found: dict[str, bool] = {}
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        before, after = left.split(), right.split()
        if not separator or len(before) < 6 or len(after) < 3:
            continue
        sealed = after[0] in _LOCAL and "ro" in after[2].split(",")
        found[before[2]] = found.get(before[2], True) and sealed
    return frozenset(device for device, sealed in found.items() if sealed)
