# SPDX-License-Identifier: Apache-2.0
"""The journal of a run: JSON lines that are only appended, each fsynced, each holding the hash of the one before.

What a crash leaves of its last line is set aside; anything else that is not as it was written is refused.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import ControlError
from . import events

Event = dict[str, Any]

#: Bytes kept back beside the journal, so that the way back can be written on a disk that is full.
RESERVE = 256 * 1024


def canonical(body: Event) -> bytes:
    """The bytes of an event: keys sorted, no spaces, ASCII. Hashed without ``sha256``, written with it."""
    return json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def digest(event: Event) -> str:
    """SHA-256 (hex) of an event, its own ``sha256`` left out."""
    return hashlib.sha256(canonical({key: value for key, value in event.items() if key != "sha256"})).hexdigest()


def read(path: Path) -> list[Event]:
    """Every whole event; what a crash left of the last line is passed over.

    :raises ControlError: ``no_journal`` or ``journal_broken``.
    """
    return _parse(path, _bytes(path))[0]


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ControlError("no_journal", f"{path}: {error.strerror}; `ktls history` lists the runs") from error


def _parse(path: Path, data: bytes) -> tuple[list[Event], int]:
    """Events, and how many bytes of ``data`` they are: what follows is the torn end."""
    found: list[Event] = []
    head, end = "", 0
    lines = data.split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        event = _event(line)
        if event is None and number == len(lines) - 1 and not lines[-1]:
            break  # the block was allocated, and not written
        wrong = _wrong(event, number, head)
        if event is None or wrong:
            raise ControlError(
                "journal_broken",
                f"{path}: line {number} {wrong}; it is evidence of who changed what, so nothing is done by it: "
                "keep it, and start a new run",
            )
        found.append(event)
        head, end = event["sha256"], end + len(line) + 1
    return found, end


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def _wrong(event: Event | None, number: int, head: str) -> str | None:
    if event is None or not all(key in event for key in events.OWN):
        return "is no event"
    if event["prev"] != head:
        return "does not follow the line before it: lines were taken out, put in or changed"
    if digest(event) != event["sha256"]:
        return "was changed: its hash does not match"
    return None if event["seq"] == number else f"has number {event['seq']}"


class Journal:
    """Open for appending. One process writes at a time: another one's line is noticed and refused.

    :param events: everything in it, oldest first.
    :param torn: bytes of an unfinished last line that were set aside when it was opened.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """:raises ControlError: ``no_journal``, ``journal_broken`` or ``no_space``."""
        self.path = path
        self._clock = clock
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        except OSError as error:
            raise unwritable(path, error) from error
        try:
            data = _bytes(path)
            self.events, self._end = _parse(path, data)
            self.torn = len(data) - self._end
            if self.torn:
                self._set_aside(data[self._end :])
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Nothing is appended after it."""
        os.close(self._fd)

    def _set_aside(self, torn: bytes) -> None:
        with contextlib.suppress(OSError), open(self.path.with_suffix(".torn"), "ab") as file:
            file.write(torn + b"\n")
        os.ftruncate(self._fd, self._end)
        os.fsync(self._fd)

    def append(self, name: str, /, **keys: Any) -> Event:
        """Write one event; it is on the disk when this returns.

        :raises ControlError: ``no_space`` or ``journal_unwritable``; then nothing of it is in the journal.
        :raises ValueError: an event that :mod:`.events` does not know.
        """
        return self.extend([(name, keys)])[0]

    def extend(self, new: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Event]:
        """Write several events, all of them or none; see :meth:`append`."""
        made: list[Event] = []
        for name, keys in new:
            wrong = events.problem(name, keys)
            if wrong:
                raise ValueError(wrong)
            last = made or self.events
            body: Event = {
                "seq": len(self.events) + len(made) + 1,
                "at": round(self._clock(), 3),
                "event": name,
                **keys,
                "prev": last[-1]["sha256"] if last else "",
            }
            # As it will be read: tuples are lists then.
            made.append(json.loads(canonical({**body, "sha256": digest(body)})))
        try:
            self._write(b"".join(canonical(event) + b"\n" for event in made))
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.events += made
        return made

    def _write(self, line: bytes) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            if os.fstat(self._fd).st_size != self._end:
                raise ControlError(
                    "journal_moved", f"{self.path}: another process writes to it; this one stops: `ktls status --watch`"
                )
            try:
                done = 0
                while done < len(line):
                    done += os.write(self._fd, line[done:])
                os.fsync(self._fd)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._end)
                raise
            self._end += len(line)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def keep_reserve(self) -> None:
        """Hold some of the disk for the last events of a run.

        :raises ControlError: ``no_space``, ``journal_unwritable``.
        """
        try:
            with open(self._reserve, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, RESERVE)
        except OSError as error:
            raise unwritable(self.path, error) from error

    def free_reserve(self) -> None:
        """Give back what was held: the run is over, or needs it now."""
        self._reserve.unlink(missing_ok=True)

    @property
    def _reserve(self) -> Path:
        return self.path.with_suffix(".reserve")


def unwritable(path: Path, error: OSError) -> ControlError:
    """The one line for a state directory that takes nothing more."""
    full = error.errno in (28, 122)  # ENOSPC, EDQUOT
    return ControlError(
        "no_space" if full else "journal_unwritable",
        f"{path}: {error.strerror}: what is not in the journal is not done; "
        + ("free some space there" if full else "make it writable")
        + ", then `ktls resume`",
    )
