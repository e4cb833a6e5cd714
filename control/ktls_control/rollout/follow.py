# SPDX-License-Identifier: Apache-2.0
"""Reads a journal while it grows, for whoever shows it. Its chain is checked by who acts on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


class Follower:
    """New events since the last call; a line that is still being written is left for the next one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at = 0

    def new(self) -> list[dict[str, Any]]:
        """Whole events, oldest first."""
        try:
            with open(self._path, "rb") as file:
                file.seek(self._at)
                data = file.read()
        except OSError:
            return []
        whole, newline, _rest = data.rpartition(b"\n")
        if not newline:
            return []
        self._at += len(whole) + 1
        return [json.loads(line) for line in whole.split(b"\n")]
