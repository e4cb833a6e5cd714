# SPDX-License-Identifier: Apache-2.0
"""HAProxy is found and named, with the reason why it is not switched."""

from __future__ import annotations

import pytest

from ktls_host import datapaths, haproxy
from ktls_host.haproxy import Build
from ktls_host.processes import TlsProcess

# haproxy -vv of Debian 12, the lines that count
DEBIAN12 = """HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/
Status: long-term supported branch - will stop receiving fixes around Q2 2027.
Build options :
  TARGET  = linux-glibc

Feature list : -51DEGREES +ACCEPT4 -KQUEUE +LINUX_SPLICE +OPENSSL -QUIC +TFO +THREAD -ZLIB
"""
# A made-up one: no package of Debian has this release (sid: 3.2.26).
NEW = "HAProxy version 3.3.1 2026/02/01\nFeature list : +EPOLL {}KTLS +OPENSSL\n"


@pytest.mark.parametrize(
    ("said", "build", "ktls", "word"),
    [
        (DEBIAN12, Build("2.6.12", None), "never", "2.6.12"),
        (NEW.format("+"), Build("3.3.1", True), "possible", "does not switch it"),
        (NEW.format("-"), Build("3.3.1", False), "never", "USE_KTLS"),
        ("", Build(), "unknown", "no version"),
    ],
)
def test_what_it_says(said: str, build: Build, ktls: str, word: str) -> None:
    assert haproxy.parse(said) == build
    found, why = haproxy.verdict(build)
    assert (found, word in why) == (ktls, True)
    process = TlsProcess(7, "/usr/sbin/haproxy", "haproxy.service", ("openssl",))
    (path,) = datapaths.assemble([process], False, None, None, said)
    assert (path.kind, path.version, path.ktls, path.why) == ("service", build.version, ktls, why)


def test_one_that_cannot_be_asked_is_not_judged() -> None:
    process = TlsProcess(7, "/usr/sbin/haproxy", "haproxy.service", ("openssl",))
    (path,) = datapaths.assemble([process], False, None, None)
    assert (path.version, path.ktls) == (None, "unknown")
