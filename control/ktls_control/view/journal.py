# SPDX-License-Identifier: Apache-2.0
"""Reads a run's journal, whole or as it grows, and checks its chain. Never writes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import ControlError
from ..rollout.journal import digest

Event = dict[str, Any]


@dataclass
class Reader:
    """Follows one journal.

    :param events: every event so far. Reading goes on behind a broken link: what follows is shown, and not trusted.
    :param broken: where and how the chain is broken first, in one line; None: it is whole.
    :param torn: the file ends within a line: it is being written, or its writer died there.
    """

    path: Path
    events: list[Event] = field(default_factory=list)
    broken: str | None = None
    torn: bool = False
    head: str = ""
    _offset: int = 0
    _line: int = 0

    def read(self) -> list[Event]:
        """The events that came since the last call.

        :raises ControlError: ``no_journal`` when it cannot be read.
        """
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offset)
                text = file.read()
        except OSError as error:
            raise ControlError("no_journal", f"{self.path}: {error.strerror}; `ktls history` lists the runs") from error
        whole, _newline, rest = text.rpartition(b"\n")
        self.torn = bool(rest)
        if not _newline:
            return []
        self._offset += len(whole) + 1
        new = [event for line in whole.split(b"\n") if (event := self._take(line)) is not None]
        self.events += new
        return new

    def _take(self, line: bytes) -> Event | None:
        self._line += 1
        try:
            event = json.loads(line)
            ok = isinstance(event, dict) and isinstance(event["event"], str) and isinstance(event["at"], (int, float))
        except (ValueError, KeyError, RecursionError):
            ok = False
        if not ok:
            self._break("is no event")
            return None
        if event.get("prev") != self.head:
            self._break("does not follow the line before it: lines were taken out, put in or changed")
        elif _digest(event) != event.get("sha256"):
            self._break("was changed: its hash does not match")
        elif event.get("seq") != self._line:
            self._break(f"has number {event.get('seq')}")
        self.head = str(event.get("sha256"))
        return event  # type: ignore[no-any-return]

    def _break(self, how: str) -> None:
        if self.broken is None:
            self.broken = f"line {self._line} {how}"


def _digest(event: Event) -> str | None:
    try:
        return digest(event)
    except (ValueError, TypeError):
        # A number that no journal was ever given.
        return None


def load(path: Path) -> Reader:
    """A reader that has read everything there is.

    :raises ControlError: ``no_journal``, also when there is no event in it.
    """
    reader = Reader(path)
    reader.read()
    if not reader.events:
        raise ControlError("no_journal", f"{path}: no event in it; `ktls history` lists the runs")
    return reader
