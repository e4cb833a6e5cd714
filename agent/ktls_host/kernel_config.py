# SPDX-License-Identifier: Apache-2.0
"""How the running kernel was configured, where its distribution keeps that."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from dataclasses import dataclass, field

# net/tls/Kconfig, net/ipv4/Kconfig; CONFIG_TLS_TOE was removed after 6.12.
OPTIONS = (
    "CONFIG_TLS",
    "CONFIG_TLS_DEVICE",
    "CONFIG_TLS_TOE",
    "CONFIG_INET_DIAG",
    "CONFIG_MODULES",
    "CONFIG_MLX5_EN_TLS",
    "CONFIG_CHELSIO_TLS_DEVICE",
)
_LINE = re.compile(r"(?:(CONFIG_\w+)=(.*)|# (CONFIG_\w+) is not set)\Z", re.ASCII)


@dataclass(frozen=True)
class KernelConfig:
    """``source`` is the file that was read, ``None`` when the host has none: then ``options`` is empty.

    ``options`` has a value for each of :data:`OPTIONS`: ``y``, ``m`` or ``n``.
    """

    source: str | None = None
    options: dict[str, str] = field(default_factory=dict)


def places(kernel: str) -> tuple[str, ...]:
    """Return where distributions put it: the kernel itself (CONFIG_IKCONFIG_PROC), Debian, Fedora and RHEL, ostree."""
    return (
        "/proc/config.gz",
        f"/boot/config-{kernel}",
        f"/lib/modules/{kernel}/config",
        f"/usr/lib/ostree-boot/config-{kernel}",
    )


def probe(kernel: str, root: str = "/") -> KernelConfig:
    """Read the configuration of the kernel release ``kernel``."""
    for place in places(kernel):
        try:
            with open(os.path.join(root, place.lstrip("/")), "rb") as stream:
                raw = stream.read()
            text = gzip.decompress(raw) if place.endswith(".gz") else raw
        except (OSError, EOFError, zlib.error):
            continue
        if b"CONFIG_" in text:  # an empty file is no kernel without everything
            return KernelConfig(place, parse(text.decode("utf-8", "replace")))
    return KernelConfig()


def parse(text: str) -> dict[str, str]:
    """Return the value of each of :data:`OPTIONS`; one that the file does not name is ``n`` (kconfig-language.rst)."""
    found = dict.fromkeys(OPTIONS, "n")
    for line in text.splitlines():
        match = _LINE.match(line)
        if match and match[1] in found:
            found[match[1]] = match[2]
    return found
