# SPDX-License-Identifier: Apache-2.0
"""``ktls-agent audit verify`` and ``audit show``: they read the files themselves and need no agent.

Exit status: 0 the trail is whole, 1 it is not, or cannot be read.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import sys
import time
from typing import Any

from ktls_host.errors import KtlsError

from .audit_chain import Head
from .audit_files import TamperedError, TornError, Verified, read_anchor, verify, walk

_TRIES = 4
_PAUSE_S = 0.3
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def main(arguments: argparse.Namespace) -> int:
    """Run it. Raises :class:`KtlsError`: audit_unreadable, bad_time."""
    try:
        if arguments.audit_verb == "show":
            return _show(arguments.directory, since(arguments.since, time.time()), arguments.json)
        return _verify(arguments.directory, arguments.head, arguments.anchor, arguments.json)
    except OSError as error:
        cure = "has the agent ever run here?" if isinstance(error, FileNotFoundError) else "run as root"
        message = f"cannot read {error.filename or arguments.directory} ({error.strerror}); {cure}"
        raise KtlsError("audit_unreadable", message) from error


def since(text: str, now: float) -> float:
    """Return the Unix time that ``text`` means; empty is the beginning. Raises :class:`KtlsError`: bad_time."""
    if not text:
        return 0.0
    ago = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if ago:
        return now - int(ago[1]) * _UNITS[ago[2]]
    try:
        moment = datetime.datetime.fromisoformat(text[:-1] + "+00:00" if text.endswith("Z") else text)
        return moment.timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise KtlsError("bad_time", f"--since {text}: use 2026-03-01, 2026-03-01T10:00 or 90m, 2h, 3d") from error


def _verify(directory: str, heads: list[str], anchor_path: str, as_json: bool) -> int:
    problem, found, torn = "", Verified(), False
    anchor: Head | None = None
    for attempt in range(_TRIES):
        # The anchor first: it is written after its record, so what it names must be there.
        anchor = read_anchor(anchor_path)
        wanted = {head.lower() for head in heads} | ({anchor.sha256} if anchor else set())
        try:
            found, problem, torn = verify(directory, wanted), "", False
            break
        except TornError as error:
            problem, torn = f"{error}; starting the agent sets it aside", True
        except TamperedError as error:
            problem, torn = str(error), False
            break
        except FileNotFoundError:
            if attempt == _TRIES - 1:
                raise
        time.sleep(_PAUSE_S)  # the agent may be writing, or changing files, at this moment
    if not problem:
        problem = _unanchored(found, heads, anchor)
    if as_json:
        body: dict[str, Any] = {
            "ok": not problem,
            "records": found.records,
            "first_seq": found.first_seq,
            "seq": found.head.seq,
            "head": found.head.sha256,
            "files": found.files,
            "gaps": found.gaps,
            "torn": found.torn,
            "anchored": anchor is not None,
            "problem": problem or None,
        }
        print(json.dumps(body, sort_keys=True))
    elif problem:
        print(f"{'TORN' if torn else 'NOT WHOLE'}: {problem}")
    else:
        print(_words(found, anchor))
    return 1 if problem else 0


def _unanchored(found: Verified, heads: list[str], anchor: Head | None) -> str:
    for head in heads:
        if head.lower() not in found.hashes_found:
            return f"no record has the hash {head[:64]}: the end was cut off, or the trail was written anew"
    if anchor and anchor.sha256 not in found.hashes_found:
        return f"record {anchor.seq}, which the agent wrote last, is not in it: the end was cut off"
    return ""


def _words(found: Verified, anchor: Head | None) -> str:
    text = f"whole: records {found.first_seq} to {found.head.seq} in {len(found.files)} files, head {found.head.sha256}"
    if found.gaps:
        text += f"; {found.gaps} gaps where records were lost while the disk was full"
    if found.torn:
        text += f"; {found.torn} torn lines were set aside"
    if anchor is None:
        text += "\nwhether the end was cut off is not known: compare with a hash from the journal (--head)"
    return text


def _show(directory: str, begin: float, as_json: bool) -> int:
    try:
        for record, _ in walk(directory):
            if record["at"] >= begin:
                print(json.dumps(record, sort_keys=True) if as_json else line_of(record))
    except TornError:
        return 0
    except TamperedError as error:
        print(f"ktls-agent: {os.uname().nodename}: the trail is not whole: {error}", file=sys.stderr)
        return 1
    return 0


def line_of(record: dict[str, Any]) -> str:
    """Return a record for people."""
    moment = datetime.datetime.fromtimestamp(record["at"], datetime.timezone.utc).strftime("%Y-%m-%d %H:%M:%SZ")
    detail = record["detail"] if isinstance(record["detail"], dict) else {}
    words = " ".join(f"{key}={_value(value)}" for key, value in detail.items() if value is not None)
    return f"{moment}  {record['seq']:>6}  {record['event']:<12} {words}".rstrip()


def _value(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    printable = "".join(char if char.isprintable() else " " for char in text)
    return f'"{printable}"' if " " in printable or not printable else printable
