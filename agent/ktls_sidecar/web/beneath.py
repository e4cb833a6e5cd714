# SPDX-License-Identifier: Apache-2.0
"""openat2(2): a whole path opened in one call, following no link and never leaving the directory it starts from.

Without it (before Linux 5.6, or refused by a system call filter) the caller walks the path name by name.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct

# One number on every architecture but alpha: include/uapi/asm-generic/unistd.h and the tables of arch/.
_SYS_OPENAT2 = 437
_HOW = struct.Struct("=QQQ")  # struct open_how: flags, mode, resolve (include/uapi/linux/openat2.h)
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 0x02, 0x04, 0x08
_RESOLVE = _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH
# Not answers about the file: the call is missing, filtered, or was interrupted.
_NO_ANSWER = frozenset((errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG, errno.EINTR, errno.EAGAIN))


class Opener:
    """Opens with fixed flags."""

    def __init__(self, flags: int) -> None:
        """Look whether the kernel has the call; ``works`` says it."""
        # The kernel refuses flags that it does not know, and O_CLOEXEC and the like are known to it by these numbers.
        self._how = ctypes.create_string_buffer(_HOW.pack(flags, 0, _RESOLVE), _HOW.size)
        self._call = ctypes.CDLL(None, use_errno=True).syscall
        self._call.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t]
        self._call.restype = ctypes.c_long
        self.works = platform.machine() != "alpha" and self._probe()

    def _probe(self) -> bool:
        directory = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = self.open(directory, b".")
        except OSError:
            return False
        finally:
            os.close(directory)
        if fd is None:
            return False
        os.close(fd)
        return True

    def open(self, directory: int, path: bytes) -> int | None:
        """Return a descriptor, or None when the call cannot tell. ``path``: relative, without NUL.

        Raises OSError as open(2) does; ELOOP: there is a link on the way.
        """
        fd = int(self._call(_SYS_OPENAT2, directory, path, self._how, _HOW.size))
        if fd >= 0:
            return fd
        code = ctypes.get_errno()
        if code in _NO_ANSWER:
            return None
        raise OSError(code, os.strerror(code), path)
