# SPDX-License-Identifier: Apache-2.0
"""Hostile web servers over real TLS. Each test: the host is as before, and the right thing is reported, in time."""

from __future__ import annotations

import datetime
import socket
import ssl
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography import x509

from ktls_agent.pull.fetch import RESPONSE_MAX
from ktls_agent.pull.watch import FULL_EVERY
from ktls_host.flag_document import BEGIN, MAX_BYTES
from tests import authority as authorities
from tests.authority import Authority

from .conftest import TIMEOUT_S, Host, Keys, Server, response


def refused(host: Host, result: str, detail: str = "", times: int = 2) -> None:
    """Poll, and check that nothing came of it but a report, within the time of a poll."""
    for _ in range(times):
        started = time.monotonic()
        said = host.poll()
        took = time.monotonic() - started
        assert said["result"] == result, said
        assert detail in said["detail"], said
        assert said["valid_s"] is None
        assert took < TIMEOUT_S + 1.0
    host.raiser.settle()
    assert host.nothing_happened()
    assert f"gives no valid flag ({result})" in host.problems()
    assert "\n" not in said["detail"]


def recovers(host: Host, server: Server, keys: Keys) -> None:
    """A proper OFF from the same server acts at the next poll."""
    server.serves(keys.sign("off"))
    assert host.poll()["result"] == "off"
    assert host.flags.present()[0]


# What comes over the wire


def test_a_body_that_says_it_is_huge_is_not_read(host: Host, server: Server, keys: Keys) -> None:
    server.says(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
    refused(host, "oversize", "1000000000000 bytes")
    recovers(host, server, keys)


@pytest.mark.parametrize("head", [b"", b"Transfer-Encoding: chunked\r\n"])
def test_a_body_without_an_end_is_cut_off(host: Host, server: Server, keys: Keys, head: bytes) -> None:
    sent: list[int] = []

    def behave(sock: ssl.SSLSocket, request: bytes) -> bool:
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        sent.extend(sock.send(b"3e8\r\n" + b"x" * 1000 + b"\r\n") for _ in range(10_000))
        return False

    server.behave = behave
    refused(host, "oversize", f"more than {MAX_BYTES} bytes")
    assert sum(sent) < 9_000_000, "the connection was closed"
    recovers(host, server, keys)


@pytest.mark.parametrize(
    ("line", "result"),
    [
        (b"X: y\r\n", "protocol"), (b"X: " + b"y" * 1000 + b"\r\n", "oversize"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", "oversize"),
    ],
)  # fmt: skip
def test_headers_without_an_end(host: Host, server: Server, keys: Keys, line: bytes, result: str) -> None:
    first = b"" if line.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n"

    def behave(sock: ssl.SSLSocket, request: bytes) -> bool:
        sock.sendall(first)
        for _ in range(10_000):
            sock.sendall(line)
        return False

    server.behave = behave
    refused(host, result)
    recovers(host, server, keys)


def test_one_endless_line(host: Host, server: Server) -> None:
    server.says(b"HTTP/1.1 200 " + b"x" * (4 * RESPONSE_MAX))
    refused(host, "oversize")


@pytest.mark.parametrize("after", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\n"])
def test_a_server_that_drips_is_cut_off_at_the_deadline(host: Host, server: Server, keys: Keys, after: bytes) -> None:
    def behave(sock: ssl.SSLSocket, request: bytes) -> bool:
        sock.sendall(after)
        for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 500:
            time.sleep(0.05)  # each byte in good time, the whole never
            sock.sendall(bytes([byte]))
        return False

    server.behave = behave
    refused(host, "timeout", f"within {TIMEOUT_S:g} s")
    recovers(host, server, keys)


def test_a_server_that_takes_the_connection_and_says_nothing_in_tls(
    host: Host, keys: Keys, authority: Authority
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        quiet = Host(host.run.parent / "other", keys, authority.path, f"https://127.0.0.1:{mute.getsockname()[1]}/")
        refused(quiet, "timeout")


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See", "307 Temporary", "308 Permanent", "300 Choices"]
)
def test_redirects_are_not_followed(
    host: Host, server: Server, keys: Keys, servers: Callable[[], Server], status: str
) -> None:
    elsewhere = servers()
    elsewhere.serves(keys.sign("off"))
    server.serves(keys.sign("off"), status, f"Location: https://127.0.0.1:{elsewhere.port}/flag\r\n")
    refused(host, "redirect", "not followed")
    assert not elsewhere.requests
    recovers(host, server, keys)


@pytest.mark.parametrize("status", ["204 None", "206 Part", "201 Made", "401 No", "403 No", "418 Tea", "999 What"])
def test_only_200_carries_a_flag(host: Host, server: Server, keys: Keys, status: str) -> None:
    server.serves(b"" if status.startswith("204") else keys.sign("off"), status)
    refused(host, "refused", status[:3])


@pytest.mark.parametrize(("status", "result"), [("404 No", "missing"), ("410 Gone", "missing"), ("503 Later", "busy")])
def test_a_missing_flag_changes_nothing(host: Host, server: Server, keys: Keys, status: str, result: str) -> None:
    server.serves(keys.sign("off"), status)
    refused(host, result)
    recovers(host, server, keys)


def test_not_modified_without_having_been_asked(host: Host, server: Server, keys: Keys) -> None:
    server.says(b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\n\r\n')
    refused(host, "protocol", "not asked for")
    recovers(host, server, keys)


def test_not_modified_without_having_been_asked_after_a_flag(host: Host, server: Server, keys: Keys) -> None:
    server.serves(keys.sign("none"))  # without an entity tag
    host.poll()
    server.always(b"HTTP/1.1 304 Not Modified\r\n\r\n")
    assert host.poll()["result"] == "protocol"


def test_not_modified_for_ever_cannot_turn_a_bad_flag_into_a_good_one(host: Host, server: Server, keys: Keys) -> None:
    server.serves(keys.sign("off", name="stranger"), headers='ETag: "x"\r\n')
    assert host.poll()["result"] == "bad_signature"
    server.always(b"HTTP/1.1 304 Not Modified\r\n\r\n")
    refused(host, "bad_signature", times=5)


def test_a_wrong_entity_tag_costs_some_polls_and_not_for_ever(host: Host, server: Server, keys: Keys) -> None:
    none, off = keys.sign("none"), keys.sign("off")
    body = [none]

    def behave(sock: ssl.SSLSocket, request: bytes) -> bool:
        # The same ETag for every content.
        asked = b"If-None-Match" in request
        sock.sendall(b"HTTP/1.1 304 Same\r\n\r\n" if asked else response(body[0], headers='ETag: "x"\r\n'))
        return True

    server.behave = behave
    host.poll()
    body[0] = off
    assert host.poll(FULL_EVERY)["result"] == "none"
    assert host.poll()["result"] == "off"


def test_a_date_is_no_validator(host: Host, server: Server, keys: Keys) -> None:
    """A server that takes If-Modified-Since for "not later than" would hide an OFF with an older date."""
    server.serves(
        keys.sign("none"),
        headers="Date: Thu, 26 Nov 2026 02:00:00 GMT\r\nLast-Modified: Thu, 26 Nov 2026 01:00:00 GMT\r\n",
    )
    host.poll(2)
    assert b"If-Modified-Since" not in server.requests[-1]


@pytest.mark.parametrize("etag", ['"a\x01b"', '"' + "x" * 300 + '"', "bare", '"a" , "b"', "é"])
def test_odd_etags_are_not_sent_back(host: Host, server: Server, keys: Keys, etag: str) -> None:
    server.serves(keys.sign("none"), headers=f"ETag: {etag}\r\n")
    host.poll(2)
    assert b"If-None-Match" not in server.requests[-1]


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\r\n\r\n", b"\0" * 100, b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/9.9 200 OK\r\n\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 -200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabcde\r\n0\r\n\r\n",
    ],
)  # fmt: skip
def test_garbage(host: Host, server: Server, keys: Keys, raw: bytes) -> None:
    server.says(raw)
    said = host.poll()
    assert said["result"] in ("protocol", "unreachable", "malformed", "refused"), said
    assert host.nothing_happened()
    recovers(host, server, keys)


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 600\r\n\r\nktls"])
def test_resets(host: Host, server: Server, keys: Keys, head: bytes) -> None:
    def behave(sock: ssl.SSLSocket, request: bytes) -> bool:
        sock.sendall(head)
        time.sleep(0.02)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    server.behave = behave
    said = host.poll()
    assert said["result"] in ("unreachable", "protocol", "tls"), said
    assert host.nothing_happened()
    recovers(host, server, keys)


def test_answers_that_nobody_asked_for_are_not_taken_for_later_ones(host: Host, server: Server, keys: Keys) -> None:
    server.says(b"")
    good = keys.sign("none")

    def behave(sock: ssl.SSLSocket, request: bytes) -> bool:
        sock.sendall(response(good))
        time.sleep(0.05)
        sock.sendall(response(keys.sign("none", serial=2)))
        return True

    server.behave = behave
    host.poll()
    time.sleep(0.15)
    assert host.poll()["serial"] == 5
    assert server.connections == 2


def test_an_encoding_that_was_not_asked_for(host: Host, server: Server, keys: Keys) -> None:
    import gzip

    server.serves(gzip.compress(keys.sign("off")), headers="Content-Encoding: gzip\r\n")
    refused(host, "protocol", "gzip")


# Who the server is


def test_another_name_in_the_certificate(host: Host, keys: Keys, authority: Authority) -> None:
    other = Server(authority.issue("other", ["example.org"]))
    other.serves(keys.sign("off"))
    there = Host(host.run.parent / "there", keys, authority.path, f"https://127.0.0.1:{other.port}/")
    refused(there, "tls", "certificate is not accepted: IP address mismatch")
    assert not other.requests, "not even asked"
    other.stop()


def test_another_authority(host: Host, server: Server, keys: Keys, tmp_path: Path) -> None:
    there = Host(tmp_path / "there", keys, Authority(tmp_path, "foreign").path, host.config.endpoints[0].url)
    server.serves(keys.sign("off"))
    refused(there, "tls", "unable to get local issuer certificate")


def test_a_certificate_that_has_expired(
    keys: Keys, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Authority._builder

    def expired(self: Authority, subject: x509.Name, public: object) -> x509.CertificateBuilder:
        made = build(self, subject, public)  # type: ignore[arg-type]
        now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
        made._not_valid_after, made._not_valid_before = now - datetime.timedelta(minutes=1), now - datetime.timedelta(2)
        return made

    monkeypatch.setattr(authorities.Authority, "_builder", expired)
    stale = Server(authority.issue("expired", ["127.0.0.1"]))
    stale.serves(keys.sign("off"))
    there = Host(tmp_path / "there", keys, authority.path, f"https://127.0.0.1:{stale.port}/")
    refused(there, "tls", "certificate has expired")
    stale.stop()


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_tls(keys: Keys, authority: Authority, host: Host, server: Server) -> None:
    server._context.minimum_version = ssl.TLSVersion.TLSv1
    server._context.maximum_version = ssl.TLSVersion.TLSv1_1
    server._context.set_ciphers("ALL:@SECLEVEL=0")
    server.serves(keys.sign("off"))
    refused(host, "tls")


def test_no_server_and_no_name(host: Host, keys: Keys, authority: Authority, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    refused(Host(tmp_path / "a", keys, authority.path, f"https://127.0.0.1:{port}/"), "unreachable", "refused")


def test_a_name_that_fails_later_is_remembered(
    keys: Keys, authority: Authority, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = [True]

    def resolve(*arguments: object, **more: object) -> object:
        if broken[0]:
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    host = Host(tmp_path / "host", keys, authority.path, f"https://flags.test:{server.port}/")
    refused(host, "dns", "Temporary failure")
    broken[0] = False
    server.serves(keys.sign("none"))
    assert host.poll()["result"] == "none"
    broken[0] = True
    host.fetchers[-1].close()
    server.serves(keys.sign("off"))
    assert host.poll()["result"] == "off"


def test_proxies_of_the_environment_are_not_used(
    host: Host, server: Server, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.serves(keys.sign("none"))
    assert host.poll()["result"] == "none"


# Who signed, and what


def served(host: Host, server: Server, body: bytes, result: str, detail: str = "") -> None:
    server.serves(body)
    refused(host, result, detail)


def test_a_stranger_signs(host: Host, server: Server, keys: Keys) -> None:
    served(host, server, keys.sign("off", name="stranger"), "bad_signature", "no allowed signer")


def test_a_signer_of_another_fleet(host: Host, server: Server, keys: Keys) -> None:
    keys.allow(keys.line("ops"), keys.line("theirs", "staging"))
    served(host, server, keys.sign("off", name="theirs"), "bad_signature")


def test_a_flag_of_another_fleet(host: Host, server: Server, keys: Keys) -> None:
    keys.allow(keys.line("ops", "prod,staging"))
    served(host, server, keys.sign("off", fleet="staging"), "wrong_fleet", "this host is in prod")


def test_another_namespace(host: Host, server: Server, keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    from ktls_control import flag

    monkeypatch.setattr(flag, "NAMESPACE", "file")
    keys.allow(keys.line("ops", options=""))
    served(host, server, keys.sign("off"), "bad_signature", "namespace")


def test_a_key_that_may_sign_in_another_namespace_only(host: Host, server: Server, keys: Keys) -> None:
    keys.allow(keys.line("ops", options='namespaces="file"'))
    served(host, server, keys.sign("off"), "bad_signature")


@pytest.mark.parametrize(("option", "says"), [("before", "key has expired"), ("after", "key is not yet valid")])
def test_a_key_out_of_its_time(host: Host, server: Server, keys: Keys, option: str, says: str) -> None:
    time_ = "20200101" if option == "before" else "20991231"
    keys.allow(keys.line("ops", options=f'namespaces="ktls-flag",valid-{option}="{time_}"'))
    served(host, server, keys.sign("off"), "bad_signature", says)


def test_document_and_signature_of_two_flags(host: Host, server: Server, keys: Keys) -> None:
    none, off = keys.sign("none"), keys.sign("off")
    document, signature = off.split(BEGIN)[0], none.split(BEGIN)[1]
    served(host, server, document + BEGIN + signature, "bad_signature", "incorrect signature")


def test_every_truncation(host: Host, server: Server, keys: Keys) -> None:
    whole = keys.sign("off")
    for end in range(0, len(whole), 7):
        server.serves(whole[:end])
        assert host.poll()["result"] in ("malformed", "bad_signature"), end
    assert host.nothing_happened()


def test_a_bit_of_the_document(host: Host, server: Server, keys: Keys) -> None:
    served(host, server, keys.sign("none").replace(b"state: none", b"state: off"), "bad_signature")
    served(host, server, keys.sign("off").replace(b"serial: 5", b"serial: 6"), "bad_signature")


@pytest.mark.parametrize(
    "change",
    [
        (b"\n", b"\r\n"), (b"ktls-flag: 1", b"ktls-flag: 2"), (b"ktls-flag: 1", b"ktls-flag: 01"),
        (b"state: off", b"state: on"), (b"state: off", b"state: tx"),
        (b"state: off", b"State: off"), (b"state: off", b"state:  off"),
        (b"reason: a test", b"reason: a\ttest"), (b"reason: a test", b"reason: "), (b"serial: 5", b"serial: 05"),
        (b"serial: 5", b"serial: -5"), (b"fleet: prod", b"fleet: ../prod"), (b"reason", b"mode: tx\nreason"),
        (b"-----END SSH SIGNATURE-----\n", b"-----END SSH SIGNATURE-----\nmode: tx\n"),
    ],
)  # fmt: skip
def test_what_is_not_canonical_is_not_even_verified(
    host: Host, server: Server, keys: Keys, change: tuple[bytes, bytes]
) -> None:
    served(host, server, keys.sign("off").replace(*change), "malformed")
    assert host.verifier.verifications == 0


@pytest.mark.parametrize("mode", [0o666, 0o664])
def test_signers_that_others_can_change_count_for_nothing(host: Host, server: Server, keys: Keys, mode: int) -> None:
    keys.allow(keys.line("ops")).chmod(mode)
    served(host, server, keys.sign("off"), "bad_signers", "chmod")


@pytest.mark.parametrize("kind", ["missing", "link", "empty", "directory", "fifo", "binary"])
def test_signers_that_are_no_such_file(host: Host, server: Server, keys: Keys, kind: str) -> None:
    import os

    path = keys.allow(keys.line("ops"))
    real = path.rename(path.with_name("real"))
    if kind == "link":
        path.symlink_to(real)
    elif kind == "empty":
        path.touch(mode=0o644)
    elif kind == "directory":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path, 0o644)
    elif kind == "binary":
        path.write_bytes(bytes(range(256)))
        path.chmod(0o644)
    try:
        served(host, server, keys.sign("off"), "bad_signature" if kind == "binary" else "bad_signers")
    finally:
        path.rmdir() if kind == "directory" else path.unlink(missing_ok=True)


def test_no_ssh_keygen_or_one_that_hangs(
    host: Host, server: Server, keys: Keys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ktls_host import flag_signature

    body = keys.sign("off")
    monkeypatch.setattr(flag_signature, "_PATH", str(tmp_path))
    served(host, server, body, "verify_failed", "install the package")
    fake = tmp_path / "ssh-keygen"
    fake.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    fake.chmod(0o755)
    monkeypatch.setattr(flag_signature, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(flag_signature.verify, "__defaults__", (0.2,))
    host.restart()
    served(host, server, body, "verify_failed", "did not end within 0.2 s")
