# SPDX-License-Identifier: Apache-2.0
"""The binding: certificates by server name and by type of key, ALPN, and sessions that other contexts resume."""

from __future__ import annotations

import gc
import os
import ssl
import weakref
from pathlib import Path

import pytest

from ktls_sidecar.openssl import Library, OpenSSLError, ServerContext, TlsError, load
from ktls_sidecar.openssl.constants import SSL_OP_ENABLE_KTLS
from tests.unit.sidecar.openssl_support import VERSIONS, Authority, Pair

both_versions = pytest.mark.parametrize("version", VERSIONS)


@pytest.fixture(scope="module")
def lib() -> Library:
    return load()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("names"))


@pytest.fixture
def first(lib: Library, authority: Authority) -> ServerContext:
    return authority.context(lib, "first.example", "localhost")


@pytest.fixture
def second(lib: Library, authority: Authority) -> ServerContext:
    return authority.context(lib, "second.example", "xn--bcher-kva.example")


@both_versions
@pytest.mark.parametrize(
    ("asked", "served", "told"),
    [
        ("second.example", "second.example", "second.example"),
        ("SECOND.Example", "second.example", "second.example"),
        ("xn--bcher-kva.example", "second.example", "xn--bcher-kva.example"),
        ("first.example", "first.example", "first.example"),
        (None, "first.example", None),
    ],
)
def test_the_name_chooses_the_certificate(
    authority: Authority,
    first: ServerContext,
    second: ServerContext,
    version: ssl.TLSVersion,
    asked: str | None,
    served: str,
    told: str | None,
) -> None:
    names: list[str | None] = []

    def select(name: str | None) -> ServerContext | None:
        names.append(name)
        return second if name in ("second.example", "xn--bcher-kva.example") else None

    assert first.choose_by_name(select)
    pair = Pair(first, authority.client(), version, name=asked)
    pair.handshake()
    assert names == [told]
    assert pair.served_name() == served
    assert pair.tls.server_name == told
    assert pair.to_server(b"hello") == b"hello"
    pair.close()


@both_versions
def test_without_a_chooser_the_name_is_known_too(
    authority: Authority, first: ServerContext, version: ssl.TLSVersion
) -> None:
    pair = Pair(first, authority.client(), version, name="First.example")
    assert pair.tls.server_name is None
    pair.handshake()
    assert pair.tls.server_name == "first.example"
    pair.close()


@pytest.mark.parametrize("asked", ["second.example", "first.example"])
def test_options_of_the_connection_survive_the_switch(
    authority: Authority, first: ServerContext, second: ServerContext, lib: Library, asked: str
) -> None:
    first.choose_by_name(lambda name: second if name == "second.example" else None)
    pair = Pair(first, authority.client(), name=asked, rx=True)
    before = lib.SSL_get_options(pair.tls._ssl)
    pair.handshake()
    assert pair.served_name() == asked
    assert before & SSL_OP_ENABLE_KTLS
    assert lib.SSL_get_options(pair.tls._ssl) == before
    pair.close()
    # And the other way round: what was off stays off.
    pair = Pair(first, authority.client(), name=asked)
    pair.handshake()
    assert not lib.SSL_get_options(pair.tls._ssl) & SSL_OP_ENABLE_KTLS
    pair.close()


def test_what_a_connection_was_switched_to_lives_as_long_as_it(
    authority: Authority, lib: Library, first: ServerContext
) -> None:
    certificate, key = authority.pair("other.example")
    made: list[weakref.ref[ServerContext]] = []

    def select(_name: str | None) -> ServerContext:
        context = ServerContext(lib, certificate, key)
        made.append(weakref.ref(context))
        return context

    first.choose_by_name(select)
    pair = Pair(first, authority.client(), name="other.example", alpn=["http/1.1"])
    # ALPN is asked after the switch: the callback belongs to the context that only the connection holds.
    pair.handshake()
    assert pair.client.selected_alpn_protocol() == "http/1.1"
    gc.collect()
    assert made[0]() is not None
    pair.close()
    del pair
    gc.collect()
    assert made[0]() is None


class Unexpected(Exception):  # noqa: N818 - any exception
    pass


@both_versions
@pytest.mark.parametrize("outcome", [Unexpected("boom"), KeyboardInterrupt(), SystemExit(3)])
def test_what_the_chooser_raises_ends_this_handshake_only(
    authority: Authority, first: ServerContext, version: ssl.TLSVersion, outcome: BaseException
) -> None:
    def select(name: str | None) -> ServerContext | None:
        if name == "first.example":
            raise outcome
        return None

    first.choose_by_name(select)
    pair = Pair(first, authority.client(), version, name="first.example")
    with pytest.raises(type(outcome)) as caught:
        pair.handshake()
    assert caught.value is outcome
    pair.move()
    with pytest.raises(ssl.SSLError, match=r"(?i)internal.error"):
        pair.client.do_handshake()
    with pytest.raises(ValueError, match="dead"):
        pair.tls.handshake()
    pair.close()
    pair = Pair(first, authority.client(), version)
    pair.handshake()
    pair.close()


@pytest.mark.parametrize("answer", ["second.example", 5, object(), True])
def test_a_chooser_that_returns_something_else(authority: Authority, first: ServerContext, answer: object) -> None:
    first.choose_by_name(lambda _name: answer)  # type: ignore[arg-type,return-value]
    pair = Pair(first, authority.client())
    with pytest.raises(TypeError, match="select must return"):
        pair.handshake()
    pair.close()


def test_a_context_of_another_library_is_refused(authority: Authority, first: ServerContext) -> None:
    foreign = authority.context(load(), "foreign.example")
    first.choose_by_name(lambda _name: foreign)
    pair = Pair(first, authority.client())
    with pytest.raises(TypeError, match="same Library"):
        pair.handshake()
    pair.close()


def test_the_chooser_cannot_break_the_connection(authority: Authority, first: ServerContext) -> None:
    seen: list[str] = []

    def select(_name: str | None) -> None:
        for use in (
            pair.tls.handshake,
            pair.tls.read,
            lambda: pair.tls.feed(b"x", 1),
            lambda: pair.tls.write_bytes(b"x"),
            pair.tls.shutdown,
            lambda: pair.tls.cipher,
            lambda: pair.tls.__init__(first, 5),  # type: ignore[misc]
        ):
            with pytest.raises(ValueError, match=r"in a handshake|in use"):
                use()
            seen.append("refused")
        assert pair.tls.alive
        # A new chooser while the old one runs: C must come back to the callback that it is in.
        callback = first._names_callback
        first.choose_by_name(lambda _name: None)
        assert first._names_callback is callback
        gc.collect()

    first.choose_by_name(select)
    pair = Pair(first, authority.client())
    pair.handshake()
    assert len(seen) == 7
    pair.close()


def test_free_inside_the_chooser_waits_for_the_handshake(authority: Authority, first: ServerContext) -> None:
    def select(_name: str | None) -> None:
        pair.tls.free()
        assert not pair.tls.alive

    first.choose_by_name(select)
    pair = Pair(first, authority.client())
    with pytest.raises(ValueError, match="freed"):
        pair.handshake()
    assert not pair.tls.alive
    pair.close()


def test_another_handshake_inside_the_chooser(
    authority: Authority, first: ServerContext, second: ServerContext
) -> None:
    inner: list[str] = []

    def select(name: str | None) -> ServerContext | None:
        if name == "first.example":
            other = Pair(first, authority.client(), name="second.example")
            other.handshake()
            inner.append(other.served_name())
            other.close()
        return second if name == "second.example" else None

    first.choose_by_name(select)
    pair = Pair(first, authority.client(), name="first.example")
    pair.handshake()
    assert (inner, pair.served_name()) == (["second.example"], "first.example")
    pair.close()


def test_hosts_that_forbid_callbacks_serve_the_first_certificate(
    authority: Authority, first: ServerContext, second: ServerContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(_function: object) -> None:
        raise MemoryError

    monkeypatch.setattr("ktls_sidecar.openssl.context.SERVERNAME_CALLBACK", forbidden)
    monkeypatch.setattr("ktls_sidecar.openssl.context.ALPN_SELECT_CALLBACK", forbidden)
    assert not first.choose_by_name(lambda _name: second)
    pair = Pair(first, authority.client(), name="first.example", alpn=["http/1.1"])
    pair.handshake()
    assert pair.served_name() == "first.example"
    pair.close()
    plain = authority.context(first.lib, "plain.example")
    pair = Pair(plain, authority.client(), name="plain.example", alpn=["http/1.1"])
    pair.handshake()
    assert pair.tls.alpn is None
    assert pair.client.selected_alpn_protocol() is None
    pair.close()


@both_versions
@pytest.mark.parametrize(
    ("offer", "expected"),
    [(["h2", "http/1.1"], "http/1.1"), (["http/1.0"], "http/1.0"), ([], None)],
)
def test_alpn_of_a_connection(
    authority: Authority, first: ServerContext, version: ssl.TLSVersion, offer: list[str], expected: str | None
) -> None:
    pair = Pair(first, authority.client(), version, alpn=offer)
    assert pair.tls.alpn is None
    pair.handshake()
    assert pair.tls.alpn == pair.client.selected_alpn_protocol() == expected
    pair.close()


def test_alpn_without_a_common_protocol(authority: Authority, first: ServerContext) -> None:
    pair = Pair(first, authority.client(), alpn=["h2"])
    with pytest.raises(TlsError, match="no application protocol"):
        pair.handshake()
    pair.close()


# --- types of key -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ciphers", "kind"), [("ECDHE+aECDSA", "EC"), ("ECDHE+aRSA", "RSA")])
def test_each_client_gets_the_key_that_it_can_verify(
    lib: Library, authority: Authority, ciphers: str, kind: str
) -> None:
    context = ServerContext(
        lib, *authority.pair("localhost", kind="rsa"), more=[authority.pair("localhost", kind="ec")]
    )
    client = authority.client()
    client.set_ciphers(ciphers)
    pair = Pair(context, client, ssl.TLSVersion.TLSv1_2)
    pair.handshake()
    assert ("ECDSA" if kind == "EC" else "RSA") in pair.tls.cipher
    pair.close()


def test_two_certificates_with_one_type_of_key(lib: Library, authority: Authority) -> None:
    with pytest.raises(OpenSSLError, match="same type of key"):
        ServerContext(lib, *authority.pair("localhost"), more=[authority.pair("localhost")])


def test_the_key_of_each_certificate_is_checked(lib: Library, authority: Authority) -> None:
    certificate, _ = authority.pair("localhost", kind="rsa")
    _, other_key = authority.pair("localhost", kind="rsa")
    with pytest.raises(OpenSSLError, match="key values mismatch"):
        ServerContext(lib, *authority.pair("localhost"), more=[(certificate, other_key)])


def test_a_path_ends_where_it_ends(lib: Library, authority: Authority, tmp_path: Path) -> None:
    certificate, key = authority.pair("localhost")
    with pytest.raises(ValueError, match="NUL"):
        ServerContext(lib, certificate + "\0.old", key)


# --- sessions ---------------------------------------------------------------------------------------------------------


def resumes(authority: Authority, made_by: ServerContext, shown_to: ServerContext, version: ssl.TLSVersion) -> bool:
    """True when a session that ``made_by`` gave out shortens a handshake with ``shown_to``."""
    client = authority.client()
    pair = Pair(made_by, client, version)
    pair.handshake()
    assert not pair.tls.resumed
    session = pair.client.session
    assert session is not None
    assert session.has_ticket
    pair.close()
    pair = Pair(shown_to, client, version, session=session)
    pair.handshake()
    resumed = pair.tls.resumed
    assert resumed == pair.client.session_reused
    assert pair.to_server(b"after") == b"after"
    pair.close()
    return resumed


@both_versions
def test_contexts_with_the_same_ticket_keys_resume_each_others_sessions(
    lib: Library, authority: Authority, version: ssl.TLSVersion
) -> None:
    files = authority.pair("localhost")
    one, two, other = (ServerContext(lib, *files) for _ in range(3))
    assert resumes(authority, one, one, version)
    assert not resumes(authority, one, two, version)
    keys = os.urandom(one.ticket_keys_length)
    one.set_ticket_keys(keys)
    two.set_ticket_keys(keys)
    other.set_ticket_keys(os.urandom(len(keys)))
    assert resumes(authority, one, two, version)
    assert resumes(authority, two, one, version)
    assert not resumes(authority, one, other, version)


@both_versions
def test_sessions_of_a_name_that_was_chosen(lib: Library, authority: Authority, version: ssl.TLSVersion) -> None:
    """The ticket keys are those of the context that the connections are made with."""
    keys = os.urandom(80)
    chosen = authority.context(lib, "localhost")
    contexts = [authority.context(lib, "default.example") for _ in range(2)]
    for context in contexts:
        context.set_ticket_keys(keys)
        context.choose_by_name(lambda name: chosen if name == "localhost" else None)
    assert resumes(authority, contexts[0], contexts[1], version)


@pytest.mark.parametrize("length", [0, 1, 48, 79, 81, 1000])
def test_ticket_keys_of_another_length(first: ServerContext, length: int) -> None:
    assert first.ticket_keys_length == 80
    with pytest.raises(ValueError, match="80 bytes"):
        first.set_ticket_keys(b"k" * length)
