# SPDX-License-Identifier: Apache-2.0
"""The page that lists a directory, and the redirect to the name with a slash."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from urllib.parse import quote, quote_from_bytes

from .respond import Plan, header_lines, refuse

SIZE_MAX = 160 * 1024
"""Bytes of a page. A longer one is cut, and says so."""

# Visible ASCII stays as the client sent it; everything else is escaped, so that no line can break.
_QUERY_SAFE = "".join(chr(code) for code in range(0x21, 0x7F))
# A colon too is escaped: "a:b" would read as a URL with the scheme "a".
_NAME_SAFE = "-._~!$&'()*+,;=@"


def path_of(segments: Sequence[bytes]) -> str:
    """Return the escaped path of a directory, with a slash at both ends. Never begins with two slashes."""
    return "/" + "".join(quote_from_bytes(segment, _NAME_SAFE) + "/" for segment in segments)


def redirect(segments: Sequence[bytes], query: bytes | None) -> Plan:
    """Return 301 to the directory ``segments`` with its slash; ``query`` as it was sent, None for none."""
    location = path_of(segments)
    if query is not None:
        location += "?" + quote(query, _QUERY_SAFE)
    return refuse(301, "this is a directory", [("Location", location)])


def listing(fd: int, segments: Sequence[bytes]) -> Plan:
    """Return the page for the directory open at ``fd``. Raises OSError.

    Shown is what may be asked for: no name with a leading dot or a control character, no device, socket or FIFO.
    Directories end in a slash. Links are shown as they are called, without a look at what they lead to.
    """
    title = "Index of " + html.escape("/" + "".join(_shown(segment) + "/" for segment in segments))
    lines = [
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>\n'
        f"<body><h1>{title}</h1>\n<ul>\n"
    ]
    if segments:
        lines.append('<li><a href="../">../</a></li>\n')
    names = _names(fd)
    size = len(lines[0])
    for count, name in enumerate(names):
        slash = name.endswith(b"/")
        href = quote_from_bytes(name.rstrip(b"/"), _NAME_SAFE) + ("/" if slash else "")
        line = f'<li><a href="{html.escape(href)}">{html.escape(_shown(name))}</a></li>\n'
        size += len(line.encode())
        if size > SIZE_MAX:
            lines.append(f"<li>and {len(names) - count} more</li>\n")
            break
        lines.append(line)
    lines.append("</ul>\n</body></html>\n")
    body = "".join(lines).encode()
    headers = [
        ("Content-Type", "text/html; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        ("Content-Security-Policy", "default-src 'none'"),
    ]
    return Plan(200, header_lines(headers), text=body)


def _names(fd: int) -> list[bytes]:
    found = []
    with os.scandir(fd) as entries:
        for entry in entries:
            name = os.fsencode(entry.name)
            if name.startswith(b".") or any(byte < 0x20 or byte == 0x7F for byte in name):
                continue
            if entry.is_dir(follow_symlinks=False):
                found.append(name + b"/")
            elif entry.is_symlink() or entry.is_file(follow_symlinks=False):
                found.append(name)
    return sorted(found)


def _shown(name: bytes) -> str:
    return name.decode("utf-8", "replace")
