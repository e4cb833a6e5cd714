# SPDX-License-Identifier: Apache-2.0
"""The audit trail on disk: one thread writes, and nobody waits for it.

Records are numbered and chained in the order in which they were asked for (``audit_chain``), each is on disk before the
next is begun, and the last hash is also kept outside of the trail: in the runtime directory and in the journal. While
the disk takes nothing, records stay in memory, up to a bound; what is lost beyond that is counted, and the count
becomes a record in its place.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import fcntl
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from .audit_chain import PRUNE, BadRecordError, Head, check, head_of, seal
from .audit_files import CURRENT, HEAD, files, first_of, full_name, last_good, last_head
from .audit_journal import Journal, fields
from .metrics.family import Family, Sample
from .version import VERSION

_LOG = logging.getLogger(__name__)
_QUEUE = 1000
_RETRY_S = 5.0
_MAX_BYTES = 4 << 20
_KEEP_FILES = 32
_MODE = 0o640


class AuditTrail:
    """An :class:`~ktls_agent.audit.Audit`, and the part named ``audit`` that shows how it does."""

    name = "audit"

    def __init__(
        self,
        directory: str,
        anchor: str | None = None,
        journal: Journal | None = None,
        boot_id: str = "",
        *,
        queue: int = _QUEUE,
        retry_s: float = _RETRY_S,
        max_bytes: int = _MAX_BYTES,
        keep_files: int = _KEEP_FILES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``directory`` is made when it is needed; ``anchor``: directory that gets the last hash as a small file.

        ``max_bytes``: of one file. ``keep_files``: full files that stay. ``retry_s``: after the disk took nothing.
        """
        self.directory = directory
        self.problem: str | None = None
        self.head = Head()
        self.lost_total = 0
        self._anchor = anchor
        self._journal = journal
        self._boot_id = boot_id
        self._limit = queue
        self._retry_s = retry_s
        self._max_bytes = max_bytes
        self._keep_files = keep_files
        self._clock = clock
        self._waiting: deque[tuple[str, dict[str, Any], float, float]] = deque()
        self._gap: dict[str, Any] | None = None  # the detail of the gap that is still counting
        self._busy = False
        self._closing = False
        self._changed = threading.Condition()
        self._file: int | None = None
        self._locked: int | None = None
        self._length = 0
        self._known = False  # whether ``head`` is that of the disk
        self._thread = threading.Thread(target=self._work, name="ktls-audit", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    # For everybody

    def record(self, event: str, **detail: Any) -> None:
        """Append one event. Returns at once and never raises; when too many wait, it is counted as lost."""
        try:
            # What is recorded is how it was now, not how the caller changes it later.
            entry = (str(event), dict(detail), self._clock(), time.clock_gettime(time.CLOCK_BOOTTIME))
            with self._changed:
                if self._closing or len(self._waiting) >= self._limit:
                    self._lose(entry)
                    return
                self._gap = None
                self._waiting.append(entry)
                self._changed.notify_all()
        except Exception:  # the order machine must not fall over its own diary
            _LOG.exception("audit: an event could not be recorded")

    def _lose(self, entry: tuple[str, dict[str, Any], float, float]) -> None:
        self.lost_total += 1
        if self._gap is None:
            self._gap = {"lost": 0, "from_boottime_s": round(entry[3], 3)}
            self._waiting.append(("audit_gap", self._gap, *entry[2:]))
        self._gap["lost"] += 1
        self._gap["to_boottime_s"] = round(entry[3], 3)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Wait until everything asked for is on disk; False when it is not, by then."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._waiting or self._busy:
                left = deadline - time.monotonic()
                if left <= 0 or not self._thread.is_alive():
                    return False
                self._changed.wait(min(left, 0.1))
        return True

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what waits, as far as that is possible in ``timeout_s``, and end the thread."""
        atexit.unregister(self.close)
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join(timeout_s)

    # The part

    async def run(self) -> None:
        """Record that the agent runs; the thread works by itself."""
        self.record("agent_start", version=VERSION)
        await asyncio.Event().wait()

    def status(self) -> dict[str, Any]:
        """Return how the trail does; ``head`` is what to note elsewhere for ``audit verify --head``."""
        return {
            "seq": self.head.seq,
            "head": self.head.sha256,
            "waiting": len(self._waiting),
            "lost": self.lost_total,
            "problem": self.problem,
        }

    def metrics(self) -> Iterable[Family]:
        """Return the exposition."""
        return [
            Family("ktls_audit_records_total", "counter", "Records in the audit trail.", (Sample(self.head.seq),)),
            Family("ktls_audit_waiting", "gauge", "Records not on disk yet.", (Sample(len(self._waiting)),)),
            Family(
                "ktls_audit_lost_total",
                "counter",
                "Records lost because the disk took nothing for too long.",
                (Sample(self.lost_total),),
            ),
        ]

    # The thread

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._waiting or self._closing):
                    self._changed.wait()
                if not self._waiting:
                    break
                self._busy = True
            try:
                self._write()
                self._say(None)
            except Exception as error:  # a full, broken or read-only disk; it may heal
                self._forget()
                why = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
                self._say(f"{self.directory} takes no audit records ({why}); they wait in memory")
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                if self.problem is not None:
                    if self._closing:
                        break
                    self._changed.wait_for(lambda: self._closing, self._retry_s)
        self._forget()
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def _say(self, problem: str | None) -> None:
        if problem != self.problem and problem is not None:
            _LOG.error("%s", problem)
        self.problem = problem

    def _write(self) -> None:
        """Put on disk what waits. Raises OSError; then what is not on disk still waits."""
        if self._file is None or not self._same_file():
            self._open()
        while True:
            with self._changed:
                if not self._waiting:
                    break
                entry = self._waiting[0]
                if entry[1] is self._gap:
                    self._gap = None  # what is lost from now on is another gap
            self._append(entry)
            with self._changed:
                self._waiting.popleft()

    def _append(self, entry: tuple[str, dict[str, Any], float, float]) -> None:
        event, detail, at, boottime_s = entry
        if self._length >= self._max_bytes:
            self._rotate()
        assert self._file is not None
        head, line = seal(self.head, event, detail, at, boottime_s, self._boot_id)
        try:
            written = 0
            while written < len(line):
                written += os.write(self._file, line[written:])
            os.fsync(self._file)
        except OSError:
            # Half a line must not stay before the next whole one.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._length)
            raise
        self._length += len(line)
        self.head = head
        self._tell(event, detail)

    def _tell(self, event: str, detail: dict[str, Any]) -> None:
        """Leave the last hash where the trail itself does not reach."""
        if self._anchor is not None:
            path = os.path.join(self._anchor, HEAD)
            with contextlib.suppress(OSError):
                with open(f"{path}.new", "w", encoding="ascii") as handle:
                    handle.write(f"{self.head.seq} {self.head.sha256}\n")
                os.rename(f"{path}.new", path)
        if self._journal is not None:
            words = " ".join(f"{key}={value}" for key, value in detail.items())
            message = f"audit {self.head.seq} {event}: {words} sha256={self.head.sha256}"
            self._journal.send(fields(event, self.head.seq, self.head.sha256, message))

    def _same_file(self) -> bool:
        """Whether the open file is still the one of that name."""
        assert self._file is not None
        with contextlib.suppress(OSError):
            mine, there = os.fstat(self._file), os.stat(os.path.join(self.directory, CURRENT), follow_symlinks=False)
            return (mine.st_dev, mine.st_ino) == (there.st_dev, there.st_ino)
        return False

    def _open(self) -> None:
        """Open the current file at its last good record; what is torn behind it goes to a file of its own."""
        self._forget()
        os.makedirs(self.directory, mode=0o755, exist_ok=True)
        self._lock()
        path = os.path.join(self.directory, CURRENT)
        record: dict[str, Any] | None = None
        length = rest = 0
        with contextlib.suppress(FileNotFoundError):
            record, length, rest = last_good(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(path, flags, _MODE)
        torn = ""
        try:
            if rest:
                torn = self._set_aside(path, length)
                os.ftruncate(handle, length)
            os.fsync(handle)
            _sync_directory(self.directory)
        except OSError:
            os.close(handle)
            raise
        self._file, self._length = handle, length
        if not self._known:
            self.head = head_of(record) if record else last_head(self.directory)
            self._known = True
        elif record and record["prev"] == self.head.sha256:
            self.head = head_of(record)  # written after all, though the disk had reported a failure
        # Else the head in memory stands: a file that was exchanged under us does not get a new beginning.
        if torn:
            _LOG.error("audit: %d bytes of %s were torn and are in %s", rest, path, torn)
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            self._append(("audit_torn", {"bytes": rest, "set_aside": torn}, self._clock(), now))

    def _lock(self) -> None:
        """One writer: two would each go on from the same record. Raises OSError while there is another."""
        if self._locked is None:
            handle = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(handle)
                raise OSError(error.errno, "another agent writes it") from error
            self._locked = handle

    def _set_aside(self, path: str, length: int) -> str:
        name = f"audit.torn-{time.time_ns()}"
        with open(path, "rb") as source:
            source.seek(length)
            torn = source.read()
        target = os.open(os.path.join(self.directory, name), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        try:
            os.write(target, torn)
            os.fsync(target)
        finally:
            os.close(target)
        return name

    def _rotate(self) -> None:
        """Give the full file its name, and begin another. Old ones go only after the trail says so."""
        path = os.path.join(self.directory, CURRENT)
        first = _first_record(path)
        # With a damaged first line any number between its neighbours' will do: verify stops there anyhow.
        number = first["seq"] if first else self.head.seq
        os.rename(path, os.path.join(self.directory, full_name(number)))
        _sync_directory(self.directory)
        self._open()
        names = [name for name in files(self.directory) if name != CURRENT]
        old, stay = names[: -self._keep_files], names[-self._keep_files :]
        if not old:
            return
        oldest = _first_record(os.path.join(self.directory, stay[0]))
        if oldest is None:
            return
        now = time.clock_gettime(time.CLOCK_BOOTTIME)
        detail = {"removed": old, "first_seq": oldest["seq"], "prev": oldest["prev"]}
        self._append((PRUNE, detail, self._clock(), now))
        for name in old:
            if first_of(name) is not None:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self.directory, name))

    def _forget(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                os.close(self._file)
            self._file = None


def _sync_directory(directory: str) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _first_record(path: str) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, BadRecordError), open(path, "rb") as handle:
        return check(handle.readline().rstrip(b"\n"))
    return None
