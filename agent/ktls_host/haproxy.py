# SPDX-License-Identifier: Apache-2.0
"""What ``haproxy -vv`` says of kernel TLS. HAProxy is found and named; this release does not switch it.

It hands OpenSSL a BIO of its own, so neither OPENSSL_CONF nor a drop-in reaches it. From 3.3 it has kernel TLS by
itself: built with USE_KTLS, and asked for by ``ktls on`` on a bind line, which is experimental
(doc/configuration.txt of 3.3).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SINCE = (3, 3)
PROGRAMS = ("/usr/sbin/haproxy", "/usr/local/sbin/haproxy")


@dataclass(frozen=True)
class Build:
    """``built`` is whether it was built with kernel TLS, ``None`` where it does not say."""

    version: str | None = None
    built: bool | None = None

    @property
    def release(self) -> tuple[int, ...]:
        """Major and minor number, (0, 0) when it is not known."""
        found = re.match(r"(\d+)\.(\d+)", self.version or "", re.ASCII)
        return (int(found[1]), int(found[2])) if found else (0, 0)


def parse(text: str) -> Build:
    """Read ``haproxy -vv``. Pure."""
    version = re.search(r"^HAProxy version (\d+(?:\.\d+)+)", text, re.MULTILINE | re.ASCII)
    features = re.search(r"^Feature list : (.*)$", text, re.MULTILINE)
    built: bool | None = None
    if features:
        words = features[1].split()
        built = True if "+KTLS" in words else False if "-KTLS" in words else None
    return Build(version[1] if version else None, built)


def verdict(build: Build) -> tuple[str, str]:
    """Return whether kernel TLS is ``possible``, ``never`` or ``unknown`` for it, and why. Pure."""
    if build.version is None:
        return (
            "unknown",
            "HAProxy has a BIO of its own; from 3.3 it can do kTLS by itself, and this one tells no version",
        )
    if build.release < SINCE:
        return "never", f"HAProxy {build.version} has a BIO of its own, and kTLS by itself only from 3.3"
    if build.built is False:
        return "never", f"HAProxy {build.version} was built without USE_KTLS"
    why = f"HAProxy {build.version} can do kTLS by itself ('ktls on', experimental); ktls-fleet does not switch it"
    return "possible", why
