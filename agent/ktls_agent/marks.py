# SPDX-License-Identifier: Apache-2.0
"""The marks in /run/ktls by which the lease timer's shell and the agent tell each other what they did.

``lapsed``: an unconfirmed order was taken back without the agent; the sidecar stays in userspace while it is there.
``stuck``: the shell gave a revert up. ``revert``: what its steps came to, a line each: ``STEP RESULT DETAIL``.
"""

from __future__ import annotations

import contextlib
import os

from .state import StepResult

_LIMIT = 8192


class Marks:
    """The marks in one directory."""

    def __init__(self, directory: str) -> None:
        """Name the directory; nothing is read yet."""
        self._lapsed = os.path.join(directory, "lapsed")
        self._stuck = os.path.join(directory, "stuck")
        self._revert = os.path.join(directory, "revert")

    def lapsed(self) -> bool:
        """Return whether the mark is there, whatever it is."""
        return os.path.lexists(self._lapsed)

    def stuck(self) -> bool:
        """Return whether the shell has given up."""
        return os.path.lexists(self._stuck)

    def raise_lapsed(self) -> None:
        """Make the sidecar stay in userspace even if it does not answer. Raises OSError if that cannot be."""
        with contextlib.suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(self._lapsed, flags, 0o644))

    def drop_lapsed(self) -> None:
        """Remove the mark and what goes with it. Raises OSError if the mark stays."""
        with contextlib.suppress(OSError):
            os.unlink(self._revert)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._lapsed)

    def drop_stuck(self) -> None:
        """Remove the mark. Raises OSError if it stays."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._stuck)

    def steps(self) -> list[StepResult]:
        """Return what the shell noted; lines that are not understood are left out. Never raises."""
        try:
            handle = os.open(self._revert, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return []
        try:
            at_s = os.fstat(handle).st_mtime
            lines = os.read(handle, _LIMIT).decode("utf-8", "replace").splitlines()
        except OSError:
            return []
        finally:
            os.close(handle)
        found = []
        for line in lines:
            step, _, rest = line.strip().partition(" ")
            result, _, detail = rest.partition(" ")
            if step and result:
                shown = "".join(char if char.isprintable() else " " for char in detail)
                found.append(StepResult(step[:40], result[:40], shown[:300], at_s))
        return found
