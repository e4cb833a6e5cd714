# SPDX-License-Identifier: Apache-2.0
"""A directory that plays a host: its files, its systemd and its processes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ktls_host import gnutls
from ktls_host.gnutls import GnutlsState
from ktls_host.policy import check

if TYPE_CHECKING:
    from tests.unit.host.policy import policyhost
else:
    sys.path.insert(0, str(Path(__file__).parent))
    import policyhost


@pytest.fixture
def host(tmp_path: Path) -> policyhost.Host:
    """Debian 12 with two services that use OpenSSL and one that does not."""
    played = policyhost.Host(tmp_path)
    played.debian("debian12")
    played.unit("web.service", "[Service]\nExecStart=/bin/web\n", libraries=("libssl.so.3",))
    played.unit("mail.service", "[Service]\nExecStart=/bin/mail\n", libraries=("libssl.so.3", "libgnutls.so.30"))
    played.unit("plain.service", "[Service]\nExecStart=/bin/plain\n")
    return played


@pytest.fixture
def fedora(tmp_path: Path) -> policyhost.Host:
    """The layout of Fedora, with crypto-policies in force."""
    played = policyhost.Host(tmp_path)
    played.fedora()
    played.unit("web.service", "[Service]\nExecStart=/bin/web\n", libraries=("libssl.so.3", "libgnutls.so.30"))
    return played


@pytest.fixture(autouse=True)
def libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL looks where Debian's does; GnuTLS was built with kTLS, which this machine's may not be."""
    built = GnutlsState("libgnutls.so.30", "3.8.10", True, "/etc/gnutls/config", None)
    monkeypatch.setattr(check, "openssl_directory", lambda: "/usr/lib/ssl")
    monkeypatch.setattr(gnutls, "probe", lambda root="/": built)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Play the libraries, too, for tests that are about something else and run the lever often."""
    monkeypatch.setattr(check, "_ask", policyhost.ask_quickly(tmp_path))
