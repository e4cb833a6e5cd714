# SPDX-License-Identifier: Apache-2.0
"""Leaks on disk: what was found once stays found, over restarts and reboots, until an operator clears it.

The file holds places and block numbers, never a payload. It is written whole and synced before anybody is told.
"""

from __future__ import annotations

import json
import os
import threading
from typing import Any

from ktls_host.errors import KtlsError
from ktls_host.files import atomic_write

from .watch import Leak

MAX_LEAKS = 16
_FILE = "leaks.json"
_MAX_BYTES = 64 * 1024


class Latch:
    """The leaks: one for each source that leaked, the first ``MAX_LEAKS`` of them. Safe for threads."""

    def __init__(self, state_dir: str) -> None:
        """Read what earlier processes found. Never raises: :attr:`problem` says what could not be done."""
        self._path = os.path.join(state_dir, _FILE)
        self._lock = threading.Lock()
        self._leaks: list[Leak] = []
        self._frames = 0
        self._handled = True
        self._unread = self._read()
        self._unwritten: str | None = None

    @property
    def problem(self) -> str | None:
        """Why the disk does not hold what is known, or what is known may not be all; None if all is well."""
        return self._unread or self._unwritten

    def leaks(self) -> list[Leak]:
        """Return them, the oldest first."""
        with self._lock:
            return list(self._leaks)

    @property
    def frames(self) -> int:
        """Frames with plaintext since this process began, or since the last clear."""
        return self._frames

    @property
    def handled(self) -> bool:
        """Whether the command for a leak ended since the first leak was found."""
        return self._handled

    def record(self, leak: Leak) -> bool:
        """Keep ``leak``. Returns whether it is the first since the last clear."""
        with self._lock:
            self._frames += 1
            first = not self._leaks
            known = any(each.src == leak.src for each in self._leaks)
            if known or len(self._leaks) >= MAX_LEAKS:
                return False
            self._leaks.append(leak)
            if first:
                self._handled = False
            self._write()
            return first

    def settle(self) -> None:
        """Try again what could not be written."""
        with self._lock:
            if self._unwritten is not None:
                self._write()

    def handle(self) -> None:
        """The command for a leak ended."""
        with self._lock:
            self._handled = True
            self._write()

    def clear(self) -> int:
        """Forget all; return how many. Raises :class:`KtlsError`: write_failed; nothing is forgotten then."""
        with self._lock:
            before = (self._leaks, self._handled, self._unread)
            self._leaks, self._handled, self._unread = [], True, None
            self._write()
            if self._unwritten is not None:
                problem, self._unwritten = self._unwritten, None
                self._leaks, self._handled, self._unread = before
                raise KtlsError("write_failed", f"not cleared: {problem}")
            self._frames = 0
            return len(before[0])

    def _read(self) -> str | None:
        try:
            with open(self._path, encoding="utf-8") as stream:
                found = json.loads(stream.read(_MAX_BYTES))
            leaks = [_leak(each) for each in found["leaks"]]
            self._leaks, self._handled = leaks[:MAX_LEAKS], bool(found["handled"])
        except FileNotFoundError:
            return None
        except OSError as error:
            return f"{self._path} cannot be read ({error.strerror}), so earlier leaks are not known"
        except (ValueError, KeyError, TypeError, RecursionError):
            return f"{self._path} is damaged, so earlier leaks are not known; `ktls-sentinel clear` begins anew"
        return None

    def _write(self) -> None:
        document = {"schema": 1, "handled": self._handled, "leaks": [leak.as_dict() for leak in self._leaks]}
        try:
            atomic_write(self._path, (json.dumps(document, indent=1) + "\n").encode(), 0o600)
        except KtlsError as error:
            self._unwritten = error.message
        else:
            self._unwritten = None


def _leak(raw: Any) -> Leak:
    return Leak(float(raw["at"]), str(raw["src"])[:64], str(raw["dst"])[:64], int(raw["block"]))
