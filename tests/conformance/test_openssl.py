# SPDX-License-Identifier: Apache-2.0
"""``openssl s_client``: KeyUpdate, resumption, ALPN, and what must be refused in a handshake."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .clients import Interactive, request, run, s_client_argv
from .conftest import Site
from .content import sha256
from .harness import Native

OK = b"HTTP/1.1 200 OK"


@contextmanager
def s_client(server: Native, *options: str) -> Iterator[Interactive]:
    client = Interactive(s_client_argv(server.endpoint, *options))
    try:
        assert client.wait_for(b"Verify return code: 0 (ok)"), client.output[-2000:]
        yield client
    finally:
        client.close()


@pytest.mark.parametrize("command", [b"k", b"K"])
def test_key_update(steady: Native, site: Site, command: bytes) -> None:
    """k: new keys for what the client sends. K: it asks the server for new ones too. Requests before and after each."""
    body = site.files["record+1.bin"]
    with s_client(steady, "-tls1_3") as client:
        for number in range(1, 5):
            before = len(client.output)
            client.send(request("/record%2B1.bin"))
            assert client.wait_for(OK, number), client.output[-500:]
            # s_client mixes messages of its own with the data, so the end of the body is what is looked for.
            assert client.wait_for(body[-64:], number)
            assert body in client.output[before:]
            client.send(command + b"\n")
            assert client.wait_for(b"KEYUPDATE", number)


def test_key_update_while_a_response_is_under_way(steady: Native, site: Site) -> None:
    count = 5
    with s_client(steady, "-tls1_3") as client:
        before = len(client.output)
        client.send(request("/large.bin"))
        assert client.wait_for(OK)
        for number in range(1, count + 1):
            # A command is one only at the start of what s_client reads at once.
            client.send(b"K\n")
            assert client.wait_for(b"KEYUPDATE\n", number)
        client.send(request("/small.bin", "Connection: close"))
        assert client.wait_for(site.files["small.bin"][-64:])
        output = bytes(client.output[before:])
    # What s_client says itself lies between the bytes: take that out again.
    data = output.partition(b"\r\n\r\n")[2].replace(b"KEYUPDATE\n", b"")
    assert sha256(data[: len(site.files["large.bin"])]) == site.sha256["large.bin"]
    assert site.files["small.bin"] in output


@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_resumption(steady: Native, site: Site, tmp_path: Path, version: str) -> None:
    """A ticket of one connection is taken by the next, or a full handshake happens; either way the bytes are right."""
    ticket = tmp_path / "ticket"
    question = request("/small.bin", "Connection: close")
    reused = 0
    for number in range(5):
        argv = s_client_argv(steady.endpoint, version, "-quiet", "-ign_eof", "-sess_out", str(ticket))
        if number:
            argv += ["-sess_in", str(ticket)]
        argv.remove("-quiet")
        done = run(argv, question)
        assert OK in done.out, done
        assert site.files["small.bin"] in done.out
        reused += b"\nReused, " in done.out
        assert ticket.stat().st_size > 0, "the server sent no ticket"
    assert reused == 4


def test_reconnect(steady: Native) -> None:
    """-reconnect makes five more connections with the first one's session."""
    done = run(s_client_argv(steady.endpoint, "-tls1_2", "-reconnect"))
    assert done.out.count(b"Cipher is ECDHE") == 6, done
    assert b"Verify return code: 0 (ok)" in done.out


@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_old_versions_are_refused(steady: Native, version: str) -> None:
    # Security level 0, or this client would not even ask.
    done = run(s_client_argv(steady.endpoint, version, "-cipher", "DEFAULT@SECLEVEL=0"))
    assert done.code != 0
    assert "alert protocol version" in done.err


@pytest.mark.parametrize(
    "suite", ["AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES128-SHA256", "NULL", "DES-CBC3-SHA", "PSK"]
)
def test_weak_suites_are_refused(steady: Native, suite: str) -> None:
    """No static RSA, CBC, NULL, 3DES, or PSK."""
    done = run(s_client_argv(steady.endpoint, "-tls1_2", "-cipher", f"{suite}:@SECLEVEL=0"))
    assert done.code != 0
    assert "handshake failure" in done.err or "no cipher match" in done.err or "no ciphers available" in done.err


def test_alpn(steady: Native) -> None:
    done = run(s_client_argv(steady.endpoint, "-alpn", "h2,http/1.1"))
    assert b"ALPN protocol: http/1.1" in done.out
    assert b"No ALPN negotiated" in run(s_client_argv(steady.endpoint)).out
    refused = run(s_client_argv(steady.endpoint, "-alpn", "h2"))
    assert refused.code != 0
    assert "no application protocol" in refused.err


def test_renegotiation_is_refused(steady: Native, site: Site) -> None:
    """TLS 1.2: R asks for it. CVE-2011-1473, and kTLS cannot do it."""
    with s_client(steady, "-tls1_2") as client:
        client.send(request("/small.bin"))
        assert client.wait_for(site.files["small.bin"][-64:])
        client.send(b"R\n")
        client.wait_for(b"RENEGOTIATING")
        output = client.ended()
    assert b"no renegotiation" in output
    assert output.count(b"Verify return code") == 1, "there was a second handshake"


@pytest.mark.parametrize("length", ["512", "1024", "4096"])
def test_small_fragments(steady: Native, site: Site, length: str) -> None:
    """RFC 6066 section 4: a client with little memory."""
    for version in ("-tls1_2", "-tls1_3"):
        argv = s_client_argv(steady.endpoint, version, "-maxfraglen", length, "-ign_eof")
        done = run(argv, request("/buffer.bin", "Connection: close"))
        assert site.files["buffer.bin"] in done.out, done


@pytest.mark.parametrize("groups", ["X25519", "P-256", "P-384", "P-521:X25519"])
def test_groups(steady: Native, groups: str) -> None:
    assert (
        OK in run(s_client_argv(steady.endpoint, "-groups", groups, "-ign_eof"), request("/", "Connection: close")).out
    )


def test_early_data_is_not_taken(steady: Native, site: Site, tmp_path: Path) -> None:
    """0-RTT can be replayed and is off: the client is told so and goes on."""
    ticket, early = tmp_path / "ticket", tmp_path / "early"
    question = request("/small.bin", "Connection: close")
    early.write_bytes(question)
    run(s_client_argv(steady.endpoint, "-tls1_3", "-ign_eof", "-sess_out", str(ticket)), question)
    argv = s_client_argv(steady.endpoint, "-tls1_3", "-ign_eof", "-sess_in", str(ticket), "-early_data", str(early))
    done = run(argv, question)
    assert b"Early data was not sent" in done.out or b"Early data was rejected" in done.out
    assert site.files["small.bin"] in done.out


def test_the_end_is_announced(steady: Native) -> None:
    """close_notify before the end, after Connection: close."""
    for version in ("-tls1_2", "-tls1_3"):
        argv = s_client_argv(steady.endpoint, version, "-ign_eof", "-msg")
        done = run(argv, request("/small.bin", "Connection: close"))
        assert b"warning close_notify" in done.out.partition(OK)[2]
        assert "unexpected eof" not in done.err
