# SPDX-License-Identifier: Apache-2.0
"""What a guard saw when it tripped, kept on disk: one file a trip, whole or not at all, and not too many of them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from typing import Any

from ktls_host.files import atomic_write, sweep

_NAME = re.compile(r"trip-\d{8}T\d{6}\.\d{3}Z\.json\Z")
_READ_LIMIT = 4 << 20


class Keep:
    """Evidence files in one directory, which is made when it is needed."""

    def __init__(self, directory: str, keep: int) -> None:
        """``keep``: how many files stay; the oldest go."""
        self.directory = directory
        self._keep = keep

    def put(self, evidence: dict[str, Any], at: float) -> str:
        """Write ``evidence`` durably, named by the wall time ``at``, and return its path.

        Raises OSError or KtlsError; then nothing was written.
        """
        os.makedirs(self.directory, mode=0o755, exist_ok=True)
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(at)) + f".{int(at * 1000) % 1000:03d}Z"
        path = os.path.join(self.directory, f"trip-{stamp}.json")
        self._prune(self._keep - 1)
        sweep(path)
        atomic_write(path, (json.dumps(evidence, sort_keys=True, indent=1) + "\n").encode(), 0o640)
        return path

    def names(self) -> list[str]:
        """Return the files, oldest first; none when they cannot be listed."""
        with contextlib.suppress(OSError):
            return sorted(name for name in os.listdir(self.directory) if _NAME.match(name))
        return []

    def last(self) -> dict[str, Any] | None:
        """Return the newest evidence that can be read."""
        for name in reversed(self.names()):
            with contextlib.suppress(OSError, ValueError, RecursionError):
                with open(os.path.join(self.directory, name), encoding="utf-8") as handle:
                    found = json.loads(handle.read(_READ_LIMIT))
                if isinstance(found, dict):
                    return {**found, "file": os.path.join(self.directory, name)}
        return None

    def _prune(self, keep: int) -> None:
        names = self.names()
        for name in names[: max(0, len(names) - keep)]:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(self.directory, name))
