# SPDX-License-Identifier: Apache-2.0
"""Which configuration a program obeys, and whom none can help."""

from __future__ import annotations

import pytest

from ktls_host.errors import KtlsError
from ktls_host.service.programs import backend_of, directions

BOTH = ("gnutls", "openssl")


@pytest.mark.parametrize(
    ("program", "libraries", "asked", "backend"),
    [
        ("/usr/bin/stunnel4", ("openssl",), "auto", "openssl"),
        ("/usr/bin/gnutls-serv", ("gnutls",), "auto", "gnutls"),
        ("/usr/bin/vsftpd", BOTH, "openssl", "openssl"),
        ("/usr/sbin/lighttpd", ("openssl",), "auto", "lighttpd"),
        ("/usr/sbin/lighttpd", ("openssl",), "lighttpd", "lighttpd"),
        ("/usr/sbin/lighttpd", ("gnutls",), "auto", "gnutls"),
        ("/usr/sbin/lighttpd", BOTH, "gnutls", "gnutls"),
        ("/usr/lib/postgresql/17/bin/postgres", BOTH, "gnutls", "gnutls"),
        (None, (), "openssl", "openssl"),
    ],
)
def test_backend(program: str | None, libraries: tuple[str, ...], asked: str, backend: str) -> None:
    assert backend_of("x.service", program, libraries, asked) == backend


@pytest.mark.parametrize(
    ("program", "libraries", "asked", "code", "word"),
    [
        (None, (), "auto", "service_library_unknown", "does not run"),
        ("/bin/static", (), "auto", "service_library_unknown", "neither"),
        ("/bin/two", BOTH, "auto", "service_library_unknown", "both"),
        ("/bin/one", ("openssl",), "gnutls", "service_library_not_used", "gnutls"),
        ("/bin/one", ("openssl",), "lighttpd", "service_library_not_used", "not lighttpd"),
        ("/usr/sbin/lighttpd", ("openssl",), "openssl", "service_library_not_used", "by itself"),
        ("/usr/sbin/lighttpd", ("gnutls",), "lighttpd", "service_library_not_used", "mapped"),
        ("/usr/sbin/apache2", ("openssl",), "auto", "service_program_never_ktls", "BIO of its own"),
        ("/usr/sbin/haproxy", ("openssl",), "auto", "haproxy_not_switched", "3.3"),
        ("/usr/lib/postgresql/17/bin/postgres", ("openssl",), "auto", "service_program_breaks", "fail"),
    ],
)
def test_refusals(program: str | None, libraries: tuple[str, ...], asked: str, code: str, word: str) -> None:
    with pytest.raises(KtlsError, match=word) as caught:
        backend_of("x.service", program, libraries, asked)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("backend", "release", "means"),
    [
        ("openssl", (3, 0), "tx"),
        ("lighttpd", (3, 1), "tx"),
        ("openssl", (3, 2), "tx+rx"),
        ("lighttpd", (3, 5), "tx+rx"),
        ("gnutls", (3, 7, 9), "tx+rx"),
    ],
)
def test_directions(backend: str, release: tuple[int, ...], means: str) -> None:
    assert directions(backend, release) == means
