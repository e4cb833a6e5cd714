# SPDX-License-Identifier: Apache-2.0
"""A page in headless Chromium: what it looks like, what its console says, what it asked the network for."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import zlib
from dataclasses import dataclass
from pathlib import Path

from . import browser
from .clients import environment

_OWN = "not an origin"
#: Nothing but this machine is there for it: what it asks on its own account stays here, too.
_ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
_CONSOLE = re.compile(r":CONSOLE[(:]")


@dataclass(frozen=True)
class Seen:
    """:param colours: how many different ones the picture has; 1 is a blank page.

    :param requests: URLs that were asked for, but for the page's own and those whose data is in them.
    """

    picture: Path
    width: int
    height: int
    colours: int
    console: list[str]
    requests: list[str]


def look(page: Path, home: Path, *, width: int = 1200, height: int = 2400, dark: bool = False) -> Seen:
    """Open a file and take a picture of it."""
    home.mkdir(parents=True, exist_ok=True)
    picture, log = home / "picture.png", home / "net.json"
    argv = [
        browser._chromium(), *browser.FLAGS, f"--user-data-dir={home / 'profile'}", f"--window-size={width},{height}",
        "--hide-scrollbars", f"--blink-settings=preferredColorScheme={0 if dark else 1}", f"--screenshot={picture}",
        "--enable-logging=stderr", _ALONE, f"--log-net-log={log}", "--net-log-capture-mode=Everything", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(
        argv,
        capture_output=True,
        timeout=browser.TIMEOUT_S,
        check=False,
        env={**environment(home), "XDG_CONFIG_HOME": str(home / "config"), "XDG_CACHE_HOME": str(home / "cache")},
    )
    errors = done.stderr.decode("utf-8", "replace")
    assert done.returncode == 0, errors
    size, colours = measure(picture.read_bytes())
    console = [line for line in errors.splitlines() if _CONSOLE.search(line)]
    return Seen(picture, *size, colours, console, _requests(log, page))


def _requests(log: Path, page: Path) -> list[str]:
    found = json.loads(log.read_text(encoding="utf-8", errors="replace"))
    asked = [event["params"] for event in found["events"] if isinstance(event.get("params"), dict)]
    # What Chromium asks on its own account has no origin; what a page asks has its page's ("null" for a file).
    urls = {str(one["url"]) for one in asked if one.get("initiator", _OWN) != _OWN and "url" in one}
    return sorted(url for url in urls if not url.startswith((page.as_uri(), "data:")))


def measure(png: bytes) -> tuple[tuple[int, int], int]:
    """Size of a PNG as Chromium writes it (8 bits, no interlace), and how many colours its lines have, up to 1,000."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    at, data, width, height, channels = 8, b"", 0, 0, 0
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        kind, body = png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        if kind == b"IHDR":
            width, height, depth, colour, _compression, _filter, interlace = struct.unpack(">IIBBBBB", body)
            assert (depth, interlace) == (8, 0)
            channels = {0: 1, 2: 3, 6: 4}[colour]
        elif kind == b"IDAT":
            data += body
        at += length + 12
    raw = zlib.decompress(data)
    row = width * channels + 1
    # Filtered bytes tell as well as colours whether lines differ from each other and within.
    found = {raw[begin + 1 : begin + row] for begin in range(0, len(raw), row)}
    return (width, height), min(1000, len(found))
