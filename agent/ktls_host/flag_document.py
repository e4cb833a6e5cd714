# SPDX-License-Identifier: Apache-2.0
"""The signed flag as text: one file that holds a short document and the armored SSH signature over it.

    ktls-flag: 1
    fleet: prod
    serial: 1764124500
    issued: 2025-11-26T02:35:00Z
    state: off
    reason: KeyUpdate resets on the new kernel
    -----BEGIN SSH SIGNATURE-----
    ...

One file, so that no reader ever holds the document of one flag and the signature of another. There is one way to
write each flag: a document that is not exactly as :func:`render` writes it is refused.
"""

from __future__ import annotations

import calendar
import re
import time
from dataclasses import dataclass

from .errors import KtlsError

SCHEMA = 1
NAMESPACE = "ktls-flag"
MAX_BYTES = 4096
OFF, NONE = "off", "none"
STATES = (OFF, NONE)
REASON_LIMIT = 200
BEGIN = b"-----BEGIN SSH SIGNATURE-----\n"
END = b"-----END SSH SIGNATURE-----\n"

_FLEET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
_DOCUMENT = re.compile(
    r"ktls-flag: ([0-9]{1,4})\nfleet: ([^\n]{1,64})\nserial: ([1-9][0-9]{0,14})\n"
    r"issued: ([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z)\n"
    r"state: ([a-z]{1,16})\nreason: ([^\n]{1,200})\n\Z"
)
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True)
class Flag:
    """What a flag says. ``serial`` grows with each flag; ``issued_at``: seconds since 1970."""

    fleet: str
    serial: int
    issued_at: int
    state: str
    reason: str


def render(flag: Flag) -> bytes:
    """Return the document of ``flag``. Raises :class:`KtlsError`: bad_flag."""
    if not _FLEET.match(flag.fleet):
        raise _bad(f"fleet {flag.fleet!r}: use up to 64 letters, digits and . _ -")
    if not 1 <= flag.serial < 10**15:
        raise _bad(f"serial {flag.serial}: use a number from 1 to 15 digits")
    if flag.state not in STATES:
        raise _bad(f"state {flag.state!r}: use off or none")
    if not flag.reason or flag.reason != clean(flag.reason):
        raise _bad("reason: use one line of up to 200 printable characters")
    try:
        issued = time.strftime(_TIME, time.gmtime(flag.issued_at))
    except (OverflowError, ValueError, OSError) as error:
        raise _bad(f"issued at {flag.issued_at}: not a time") from error
    text = f"ktls-flag: {SCHEMA}\nfleet: {flag.fleet}\nserial: {flag.serial}\nissued: {issued}\n"
    return f"{text}state: {flag.state}\nreason: {flag.reason}\n".encode()


def parse(document: bytes) -> Flag:
    """Return what ``document`` says. Raises :class:`KtlsError`: bad_flag."""
    try:
        found = _DOCUMENT.match(document.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise _bad("is not UTF-8") from error
    if found is None:
        raise _bad("is not a flag document")
    schema, fleet, serial, issued, state, reason = found.groups()
    if int(schema) != SCHEMA:
        raise _bad(f"has schema {int(schema)}; this release knows {SCHEMA}")
    try:
        issued_at = calendar.timegm(time.strptime(issued, _TIME))
    except ValueError as error:
        raise _bad(f"has no such time: {issued}") from error
    flag = Flag(fleet, int(serial), issued_at, state, reason)
    if render(flag) != document:
        raise _bad("is not written in the one canonical way")
    return flag


def join(document: bytes, signature: bytes) -> bytes:
    """Return the file. Raises :class:`KtlsError`: bad_flag, if what comes out is not one that :func:`split` takes."""
    body = document + signature
    split(body)
    return body


def split(body: bytes) -> tuple[bytes, bytes]:
    """Return (document, signature) of a file. Raises :class:`KtlsError`: oversize, bad_flag."""
    if len(body) > MAX_BYTES:
        raise KtlsError("oversize", f"more than {MAX_BYTES} bytes")
    at = body.find(BEGIN)
    if at <= 0 or body[at - 1 : at] != b"\n":
        raise _bad("holds no document with a signature after it")
    document, signature = body[:at], body[at:]
    inner = signature[len(BEGIN) : -len(END)]
    if not signature.endswith(END) or not re.fullmatch(rb"[A-Za-z0-9+/=\n]+", inner):
        raise _bad("has no whole signature at its end")
    return document, signature


def clean(reason: str) -> str:
    """Return ``reason`` as a flag can carry it: one line, printable, at most 200 characters; may be empty."""
    printable = "".join(char if char.isprintable() else " " for char in reason)
    return " ".join(printable.split())[:REASON_LIMIT].rstrip()


def _bad(what: str) -> KtlsError:
    return KtlsError("bad_flag", f"the flag {what}" if what.startswith(("is ", "has ", "holds ")) else what)
