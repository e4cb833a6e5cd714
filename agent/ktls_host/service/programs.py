# SPDX-License-Identifier: Apache-2.0
"""By which configuration a program gets kernel TLS, and which programs none can help. Pure.

Three ways are known: OpenSSL's file (``OPENSSL_CONF``), that of GnuTLS (``GNUTLS_SYSTEM_PRIORITY_FILE``), and
lighttpd's own, because its mod_openssl sets SSL_OP_ENABLE_KTLS by itself after OpenSSL has read its file
(src/mod_openssl.c, 1.4.68 and later). What a program does is otherwise not believed but tried: the self-test looks at
a connection after each switch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..datapaths import PROGRAMS
from ..reasons import Reason
from .refusals import RefusedError

OPENSSL = "openssl"
GNUTLS = "gnutls"
LIGHTTPD = "lighttpd"
BACKENDS = (OPENSSL, GNUTLS, LIGHTTPD)
AUTO = "auto"


def backend_of(unit: str, program: str | None, libraries: Sequence[str], asked: str = AUTO) -> str:
    """Return what switches ``program``, which has mapped ``libraries`` (``openssl``, ``gnutls``).

    ``program`` is ``None`` when the unit does not run. Raises :class:`.refusals.RefusedError`: that no kernel TLS can
    come of it (``service_program_never_ktls``, ``service_program_breaks``, ``haproxy_not_switched``), or that it is not
    known by what (``service_library_unknown``, ``service_library_not_used``).
    """
    if program is None:
        if asked == AUTO:
            message = f"{unit} does not run, so its TLS library is not known"
            raise RefusedError(Reason("service_library_unknown", message, "start it, or name ktls_service_backend"))
        return asked
    name = program.rpartition("/")[2]
    if name.startswith("haproxy"):
        message = f"{unit} is HAProxy, which no configuration of OpenSSL reaches; from 3.3 it has 'ktls on' of its own"
        cure = "take another datapath: this release does not switch HAProxy"
        raise RefusedError(Reason("haproxy_not_switched", message, cure))
    known = next((entry for entry in PROGRAMS if re.match(entry.pattern, name)), None)
    if known is not None and known.ktls == "never":
        message = f"{unit} runs {name}, which can never use kernel TLS ({known.why}; {known.link})"
        raise RefusedError(Reason("service_program_never_ktls", message, "take another server"))
    chosen = _chosen(unit, name, libraries, asked)
    if known is not None and known.ktls == "breaks" and chosen == OPENSSL:
        message = f"{unit} would lose its TLS connections ({known.why}; {known.link})"
        raise RefusedError(Reason("service_program_breaks", message, "leave it as it is"))
    return chosen


def _chosen(unit: str, name: str, libraries: Sequence[str], asked: str) -> str:
    own = name == LIGHTTPD and OPENSSL in libraries
    if asked == AUTO and own:
        return LIGHTTPD
    if asked == AUTO and len(libraries) == 1:
        return libraries[0]
    if asked == AUTO:
        what = "both libssl and libgnutls" if libraries else "neither libssl nor libgnutls"
        cure = "name the one that serves in ktls_service_backend" if libraries else "take a server with one of them"
        raise RefusedError(Reason("service_library_unknown", f"the processes of {unit} have {what} mapped", cure))
    cure = "leave ktls_service_backend out"
    if asked == LIGHTTPD and name != LIGHTTPD:
        raise RefusedError(Reason("service_library_not_used", f"{unit} runs {name}, not lighttpd", cure))
    if own and asked == OPENSSL:
        message = f"{unit} is lighttpd with mod_openssl, which asks for kernel TLS by itself whatever OPENSSL_CONF says"
        raise RefusedError(Reason("service_library_not_used", message, f"{cure}: its own configuration is used then"))
    if (OPENSSL if asked == LIGHTTPD else asked) not in libraries:
        message = f"no process of {unit} has the library of backend {asked} mapped, so that decides nothing there"
        raise RefusedError(Reason("service_library_not_used", message, cure))
    return asked


def directions(backend: str, openssl: Sequence[int]) -> str:
    """Return what the one setting gives new connections: ``tx`` or ``tx+rx``.

    OpenSSL before 3.2 leaves receiving of TLS 1.3 in userspace (CHANGES of 3.2); of TLS 1.2 it never does. GnuTLS takes
    both directions always (lib/system/ktls.c).
    """
    return "tx" if backend != GNUTLS and tuple(openssl[:2]) < (3, 2) else "tx+rx"
