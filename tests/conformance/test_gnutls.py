# SPDX-License-Identifier: Apache-2.0
"""gnutls-cli: another TLS stack, its key updates and its resumption."""

from __future__ import annotations

from pathlib import Path

import pytest

from .clients import Interactive, gnutls_argv, request, run
from .conftest import Site
from .content import sha256
from .harness import Native

PRIORITIES = {
    "1.2 AES-128-GCM": "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-128-GCM",
    "1.2 AES-256-GCM": "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+AES-256-GCM",
    "1.2 CHACHA20": "NORMAL:-VERS-ALL:+VERS-TLS1.2:-CIPHER-ALL:+CHACHA20-POLY1305",
    "1.3 AES-128-GCM": "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM",
    "1.3 AES-256-GCM": "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-256-GCM",
    "1.3 CHACHA20": "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+CHACHA20-POLY1305",
    "1.3 AES-128-CCM": "NORMAL:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-CCM",
}


@pytest.mark.parametrize("name", PRIORITIES)
def test_get(switching: Native, site: Site, tmp_path: Path, name: str) -> None:
    log = tmp_path / "log"
    argv = gnutls_argv(switching.endpoint, "--priority", PRIORITIES[name], log=str(log))
    done = run(argv, request("/medium%2B1.bin", "Connection: close"))
    said = log.read_text(errors="replace")
    assert "The certificate is trusted" in said, said
    version, cipher = name.split()
    assert f"(TLS{version}" in said
    assert cipher in said
    head, _, body = done.out.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert sha256(body) == site.sha256["medium+1.bin"]


def test_key_updates(steady: Native, site: Site, tmp_path: Path) -> None:
    """GnuTLS asks for the peer's new keys with ``^rekey^``."""
    body = site.files["record+1.bin"]
    priority = PRIORITIES["1.3 AES-256-GCM"]
    argv = gnutls_argv(steady.endpoint, "--inline-commands", "--priority", priority, log=str(tmp_path / "log"))
    client = Interactive(argv)
    try:
        for number in range(1, 4):
            client.send(request("/record%2B1.bin"))
            assert client.wait_for(body[-64:], number)
            client.send(b"^rekey^\n")
        client.send(request("/small.bin", "Connection: close"))
        assert client.wait_for(site.files["small.bin"][-64:])
        assert client.output.count(body) == 3
    finally:
        client.close()
    assert (tmp_path / "log").read_text().count("Rekey was completed") == 3


def test_resumption(steady: Native, site: Site, tmp_path: Path) -> None:
    log = tmp_path / "log"
    for version in ("1.2", "1.3"):
        priority = f"NORMAL:-VERS-ALL:+VERS-TLS{version}"
        argv = gnutls_argv(steady.endpoint, "--resume", "--waitresumption", "--priority", priority, log=str(log))
        done = run(argv, request("/small.bin", "Connection: close"))
        assert "This is a resumed session" in log.read_text(errors="replace"), log.read_text(errors="replace")
        assert site.files["small.bin"] in done.out


def test_wrong_name(steady: Native) -> None:
    """What the other tests prove, they prove verified."""
    argv = gnutls_argv(steady.endpoint, "--verify-hostname=elsewhere.example.test")
    done = run(argv, request("/small.bin"))
    assert done.code != 0
    assert b"HTTP/1.1" not in done.out
