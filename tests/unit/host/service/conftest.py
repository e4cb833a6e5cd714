# SPDX-License-Identifier: Apache-2.0
"""A directory that plays a host whose processes have an environment and a program, for datapath ``service``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ktls_host import gnutls, openssl_lib
from ktls_host.gnutls import GnutlsState
from ktls_host.openssl_lib import OpensslState
from ktls_host.policy import check

if TYPE_CHECKING:
    from tests.unit.host.policy import policyhost
    from tests.unit.host.service import servicehost
else:
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "policy")]
    import policyhost
    import servicehost


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """OpenSSL 3.5 and GnuTLS, both with kTLS, which answer by our own reading of their files."""
    built = GnutlsState("libgnutls.so.30", "3.8.10", True, "/etc/gnutls/config", None)
    openssl = OpensslState("libcrypto.so.3", "OpenSSL 3.5.7 4 Aug 2026", 0x30500070, True)
    monkeypatch.setattr(check, "openssl_directory", lambda: "/usr/lib/ssl")
    monkeypatch.setattr(check, "_ask", policyhost.ask_quickly(tmp_path))
    monkeypatch.setattr(gnutls, "probe", lambda root="/": built)
    monkeypatch.setattr(openssl_lib, "probe", lambda: openssl)


@pytest.fixture
def host(tmp_path: Path) -> servicehost.ServiceHost:
    """Debian with lighttpd, stunnel and a server with GnuTLS, all of them running."""
    played = servicehost.ServiceHost(tmp_path)
    played.debian("debian12")
    played.serve("lighttpd.service", "/usr/sbin/lighttpd", "libssl.so.3")
    played.serve("tunnel.service", "/usr/bin/stunnel4", "libssl.so.3")
    played.serve("gtls.service", "/usr/bin/gnutls-serv", "libgnutls.so.30")
    (tmp_path / "etc/lighttpd/conf-enabled").mkdir(parents=True)
    return played
