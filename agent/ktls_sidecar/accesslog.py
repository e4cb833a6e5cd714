# SPDX-License-Identifier: Apache-2.0
"""One JSON line a response, written in batches."""

from __future__ import annotations

import contextlib
import json
from typing import Any, TextIO

_MAX_HELD = 64 * 1024


class AccessLog:
    """Holds lines until :meth:`flush` or until about 64 KiB are held. Without a stream it drops them."""

    def __init__(self, stream: TextIO | None) -> None:
        """Write to ``stream``."""
        self._stream = stream
        self._held: list[str] = []
        self._size = 0

    def write(self, **entry: Any) -> None:
        """Add one line."""
        if self._stream is None:
            return
        line = json.dumps(entry, separators=(",", ":"))
        self._held.append(line)
        self._size += len(line)
        if self._size > _MAX_HELD:
            self.flush()

    def flush(self) -> None:
        """Write what is held. A reader that went away does not stop the server."""
        if self._held and self._stream is not None:
            with contextlib.suppress(OSError):
                self._stream.write("\n".join(self._held) + "\n")
                self._stream.flush()
        self._held.clear()
        self._size = 0
