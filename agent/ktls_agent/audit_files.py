# SPDX-License-Identifier: Apache-2.0
"""The files of the audit trail: ``audit.jsonl`` is written, ``audit-NUMBER.jsonl`` are full.

NUMBER is that of the first record inside, with enough zeros that names sort as numbers do. The chain goes on from file
to file.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator
from typing import Any

from .audit_chain import GENESIS, PRUNE, BadRecordError, Head, check, head_of

CURRENT = "audit.jsonl"
HEAD = "audit.head"
_FULL = re.compile(r"audit-(\d{12})\.jsonl\Z")
_LINE_LIMIT = 64 * 1024


def full_name(first_seq: int) -> str:
    """Return the name of a full file."""
    return f"audit-{first_seq:012d}.jsonl"


def first_of(name: str) -> int | None:
    """Return the number in the name of a full file."""
    found = _FULL.match(name)
    return int(found[1]) if found else None


def files(directory: str) -> list[str]:
    """Return the names of the trail's files in the order of the chain. Raises OSError."""
    names = sorted(name for name in os.listdir(directory) if _FULL.match(name))
    return [*names, *([CURRENT] if os.path.lexists(os.path.join(directory, CURRENT)) else [])]


def lines(path: str) -> Iterator[bytes]:
    """Yield the lines of a file, each with its line feed if it has one; one that is too long comes in pieces."""
    with open(path, "rb") as handle:
        while line := handle.readline(_LINE_LIMIT):
            yield line


class TamperedError(Exception):
    """The trail is not as it was written. ``str()`` names the first bad record and its place."""


class TornError(TamperedError):
    """The very last line is not whole: it is being written now, or power was cut while it was."""


class Verified:
    """What a walk over the whole trail found."""

    def __init__(self, wanted: Collection[str] = ()) -> None:
        """Start before the first record. ``wanted``: hashes to look for; those that are there are noted."""
        self._wanted = frozenset(wanted)
        self.records = 0
        self.first_seq = 1
        self.head = Head()
        self.files: list[str] = []
        self.hashes_found: set[str] = set()
        self.gaps = 0
        self.torn = 0
        self.pruned: set[tuple[int, str]] = set()
        self._start: tuple[int, str] | None = None

    def take(self, record: dict[str, Any], where: str) -> None:
        """Check that ``record`` follows the one before it."""
        if self._start is None:
            self._start = (record["seq"], record["prev"])
            self.first_seq = record["seq"]
        else:
            expected = self.head.seq + 1
            if record["seq"] != expected:
                raise TamperedError(f"{where} is record {record['seq']} where record {expected} belongs")
            if record["prev"] != self.head.sha256:
                raise TamperedError(f"{where} (record {record['seq']}) does not follow the record before it")
        self.head = head_of(record)
        if record["sha256"] in self._wanted:
            self.hashes_found.add(record["sha256"])
        self.records += 1
        self.gaps += record["event"] == "audit_gap"
        self.torn += record["event"] == "audit_torn"
        if record["event"] == PRUNE and isinstance(record["detail"], dict):
            self.pruned.add((record["detail"].get("first_seq", 0), record["detail"].get("prev", "")))

    def end(self) -> None:
        """Check that the trail begins where it may: with its first record, or where older files were removed by us."""
        if self._start is not None and self._start != (1, GENESIS) and self._start not in self.pruned:
            raise TamperedError(f"the trail begins with record {self.first_seq}, and nothing in it says why")


def walk(directory: str) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield (record, place) of the whole trail. Raises :class:`TamperedError` at the first line that is no record.

    Raises OSError when the trail cannot be read.
    """
    for name in files(directory):
        first = first_of(name)
        for number, line in enumerate(lines(os.path.join(directory, name)), 1):
            where = f"{name} line {number}"
            if not line.endswith(b"\n"):
                raise (TornError if name == CURRENT else TamperedError)(f"{where} is not whole")
            try:
                record = check(line[:-1])
            except BadRecordError as error:
                raise TamperedError(f"{where} {error}") from error
            if number == 1 and first is not None and record["seq"] != first:
                raise TamperedError(f"{where} is record {record['seq']}, and the name of the file says {first}")
            yield record, where


def verify(directory: str, wanted: Collection[str] = ()) -> Verified:
    """Walk over the whole trail. Raises :class:`TamperedError`, or OSError when it cannot be read."""
    found = Verified(wanted)
    found.files = files(directory)
    for record, where in walk(directory):
        found.take(record, where)
    found.end()
    return found


def last_good(path: str) -> tuple[dict[str, Any] | None, int, int]:
    """Return (record, length, rest) of a file: its last good record, the bytes up to its end, and those after that.

    Only the end of the file is checked, backwards from its last line: a power cut tears nothing else. Raises OSError.
    """
    with open(path, "rb") as handle:
        content = handle.read()
    end = len(content)
    while end:
        start = content.rfind(b"\n", 0, end - 1) + 1
        if content[end - 1 : end] == b"\n":
            with contextlib.suppress(BadRecordError):
                return check(content[start : end - 1]), end, len(content) - end
        end = start
    return None, 0, len(content)


def last_head(directory: str) -> Head:
    """Return the head of the newest full file that has one, for a trail whose current file has none."""
    with contextlib.suppress(OSError):
        for name in reversed([name for name in files(directory) if name != CURRENT]):
            record, _, _ = last_good(os.path.join(directory, name))
            if record is not None:
                return head_of(record)
    return Head()


def read_anchor(path: str) -> Head | None:
    """Return the head that the agent left in its runtime directory; None: there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, UnicodeDecodeError):
        with open(path, encoding="ascii") as handle:
            seq, digest = handle.read(200).split()
        if len(digest) == 64:
            return Head(int(seq), digest)
    return None
