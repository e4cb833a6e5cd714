# SPDX-License-Identifier: Apache-2.0
"""Kernel log lines that warn and name TLS.

Reads an open /dev/kmsg (Documentation/ABI/testing/dev-kmsg). The helper's unit passes it as standard input, opened by
systemd, so that no capability is needed to read it. Where standard input is something else, nothing is counted and
that is said.
"""

from __future__ import annotations

import os
import re
import stat

_WARNING = 4  # syslog(3): warning, and what is worse below it
_KMSG = (1, 11)  # Documentation/admin-guide/devices.txt
_RECORD = 8192
_MOST = 10000  # records at once
# net/tls's own messages, functions of it in a trace, and drivers that name their TLS part.
_NAMES_TLS = re.compile(r"(?<![a-z])(k?tls|tls_\w+|\w+_k?tls)(?![a-z])", re.IGNORECASE)


class KernelLog:
    """Counts from the moment that it is opened."""

    def __init__(self, descriptor: int = 0) -> None:
        """``descriptor``: of /dev/kmsg; anything else makes ``readable`` false."""
        self.count = 0
        self.last = ""
        self.readable = False
        self._descriptor = descriptor
        try:
            found = os.fstat(descriptor)
            if stat.S_ISCHR(found.st_mode) and (os.major(found.st_rdev), os.minor(found.st_rdev)) == _KMSG:
                os.set_blocking(descriptor, False)
                os.lseek(descriptor, 0, os.SEEK_END)
                self.readable = True
        except OSError:
            pass

    def read(self) -> None:
        """Take what is new. Never waits."""
        for _ in range(_MOST if self.readable else 0):
            try:
                record = os.read(self._descriptor, _RECORD)
            except BlockingIOError:
                return
            except BrokenPipeError:
                continue  # overwritten before we read it; the next one is there
            except OSError:
                self.readable = False
                return
            self.take(record)

    def take(self, record: bytes) -> None:
        """Count one record if it warns and names TLS."""
        head, _, rest = record.decode("utf-8", "replace").partition(";")
        message = rest.split("\n", 1)[0]
        priority = head.split(",", 1)[0]
        # The low three bits are the level, the others the facility, 0 being the kernel itself.
        if priority.isdigit() and int(priority) <= _WARNING and _NAMES_TLS.search(message):
            self.count += 1
            self.last = "".join(char if char.isprintable() else " " for char in message)[:200]
