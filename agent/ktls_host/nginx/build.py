# SPDX-License-Identifier: Apache-2.0
"""What ``nginx -V`` says: version, TLS library, modules, paths. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..datapaths import parse_nginx
from ..known_bad import version_of

SINCE = (1, 21, 4)
"""The first with SSL_sendfile (CHANGES of nginx 1.21.4)."""
KEEPALIVE_SINCE = (1, 27, 4)
"""The first with keepalive_min_timeout, which lets a connection wait out a reload (CHANGES of 1.27.4)."""
CONNECTION_TIME_SINCE = (1, 19, 10)


@dataclass(frozen=True)
class Build:
    """``openssl`` is the version that it runs with, empty for another library; ``library`` is its name and version."""

    version: str = ""
    openssl: str = ""
    library: str = ""
    ssl: bool = False
    http_log: str = ""
    conf: str = ""

    @property
    def number(self) -> tuple[int, ...]:
        """Return the version as numbers."""
        return version_of(self.version)

    @property
    def openssl_number(self) -> tuple[int, ...]:
        """Return the library's version as numbers, (0, 0, 0) for another library."""
        return version_of(self.openssl)

    @property
    def both_ways(self) -> bool:
        """Whether its one option gives receive with transmit (CHANGES of OpenSSL 3.2: TLS 1.3 receive)."""
        return self.openssl_number[:2] >= (3, 2)


def parse(text: str) -> Build:
    """Read what ``nginx -V`` printed."""
    said = parse_nginx(text)
    built = re.search(r"built with (.+)", text)
    running = re.search(r"running with ([^)\n]+)\)", text)
    library = running[1] if running else built[1] if built else ""
    return Build(
        version=str(said["version"] or ""),
        openssl=str(said["openssl"] or "") if library.startswith("OpenSSL ") else "",
        library=library,
        ssl=said["ssl"] is True,
        http_log=_path(text, "http-log-path"),
        conf=_path(text, "conf-path"),
    )


def _path(text: str, name: str) -> str:
    found = re.search(rf"--{name}=(\S+)", text)
    return found[1] if found else ""
