# SPDX-License-Identifier: Apache-2.0
"""The list of releases with faults: sound as data, exact at its edges, and true to what the projects wrote."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host import known_bad
from ktls_host.known_bad import KNOWN_BAD, KnownBad, Version
from ktls_host.verdict import PHASES

_VERSIONS = st.tuples(st.integers(0, 9), st.integers(0, 20), st.integers(0, 30))


def by_code(code: str) -> KnownBad:
    return next(known for known in KNOWN_BAD if known.code == code)


def text(version: Version) -> str:
    return ".".join(map(str, version))


def codes(software: str, said: str) -> set[str]:
    return {reason.code for _, reason in known_bad.hits(software, said)}


@pytest.mark.parametrize("known", KNOWN_BAD, ids=lambda known: known.code)
def test_each_entry_is_sound(known: KnownBad) -> None:
    assert re.fullmatch(r"(openssl|gnutls)_[a-z0-9_]+", known.code)
    assert known.code.startswith(known.software + "_")
    assert re.fullmatch(r"https://[^\s()]+", known.link)
    assert set(known.phases) <= set(PHASES)
    for words in (known.message, known.cure):
        assert words and "\n" not in words and not words.endswith(".")
    assert known.branches


@pytest.mark.parametrize("known", KNOWN_BAD, ids=lambda known: known.code)
def test_branches_are_in_order_and_apart(known: KnownBad) -> None:
    """Each begins where it is bad, ends later, and before the next begins; only the last may have no end."""
    for first, good in known.branches:
        assert len(first) == 3 and (not good or (len(good) == 3 and first < good))
    for (_, good), (following, _) in zip(known.branches, known.branches[1:], strict=False):
        assert good and good <= following


def test_codes_are_unique() -> None:
    assert len({known.code for known in KNOWN_BAD}) == len(KNOWN_BAD)


def before(version: Version) -> Version:
    """The greatest version that is less, of three numbers."""
    major, minor, patch = version
    return (major, minor, patch - 1) if patch else (major, minor - 1, 99) if minor else (major - 1, 99, 99)


@pytest.mark.parametrize("known", KNOWN_BAD, ids=lambda known: known.code)
def test_edges(known: KnownBad) -> None:
    """First bad, last bad, first good, and what lies before the first."""
    for index, (first, good) in enumerate(known.branches):
        assert known.hits(first)
        if good:
            assert known.hits(before(good))
            following = known.branches[index + 1][0] if index + 1 < len(known.branches) else None
            assert known.hits(good) is (good == following)
    assert not known.hits(before(known.branches[0][0]))


@pytest.mark.parametrize("known", KNOWN_BAD, ids=lambda known: known.code)
@given(version=_VERSIONS)
def test_a_version_is_bad_exactly_within_a_branch(known: KnownBad, version: Version) -> None:
    inside = [first for first, good in known.branches if first <= version and (not good or version < good)]
    assert known.hits(version) is bool(inside)


@pytest.mark.parametrize(
    ("code", "version", "bad"),
    [
        # openssl/openssl#23182, in CHANGES of 3.2.1
        ("openssl_rx_record_too_long", "3.1.8", False),
        ("openssl_rx_record_too_long", "3.2.0", True),
        ("openssl_rx_record_too_long", "3.2.1", False),
        ("openssl_rx_record_too_long", "3.5.7", False),
        # openssl/openssl#27908: 3.0.19 and 3.5.7 were watched while they made a BIO for a socket
        ("openssl_ulp_on_every_socket", "3.0.18", True),
        ("openssl_ulp_on_every_socket", "3.0.19", False),
        ("openssl_ulp_on_every_socket", "3.1.99", True),
        ("openssl_ulp_on_every_socket", "3.2.6", True),
        ("openssl_ulp_on_every_socket", "3.3.6", False),
        ("openssl_ulp_on_every_socket", "3.4.3", True),
        ("openssl_ulp_on_every_socket", "3.5.4", True),
        ("openssl_ulp_on_every_socket", "3.5.5", False),
        ("openssl_ulp_on_every_socket", "3.6.0", True),
        ("openssl_ulp_on_every_socket", "3.6.1", False),
        ("openssl_ulp_on_every_socket", "4.0.0", False),
        # openssl/openssl#31146: in CHANGES of 3.5.7, and in neither CHANGES nor code of 3.0.22
        ("openssl_moving_write_buffer", "3.0.22", True),
        ("openssl_moving_write_buffer", "3.5.6", True),
        ("openssl_moving_write_buffer", "3.5.7", False),
        ("openssl_moving_write_buffer", "3.5.20", False),
        ("openssl_moving_write_buffer", "4.0.0", True),
        ("openssl_moving_write_buffer", "4.0.1", False),
        ("openssl_moving_write_buffer", "4.1.0", False),
        # NEWS of GnuTLS 3.8.10
        ("gnutls_key_update_ends_session", "3.7.2", False),
        ("gnutls_key_update_ends_session", "3.7.3", True),
        ("gnutls_key_update_ends_session", "3.8.9", True),
        ("gnutls_key_update_ends_session", "3.8.10", False),
        # NEWS of GnuTLS 3.8.13; the cipher came with "KTLS: add ciphersuites" in 3.8.0
        ("gnutls_chacha20_tls12_iv", "3.7.9", False),
        ("gnutls_chacha20_tls12_iv", "3.8.0", True),
        ("gnutls_chacha20_tls12_iv", "3.8.12", True),
        ("gnutls_chacha20_tls12_iv", "3.8.13", False),
    ],
)
def test_what_the_projects_say(code: str, version: str, bad: bool) -> None:
    known = by_code(code)
    assert (code in codes(known.software, version)) is bad


def test_a_fault_of_one_library_is_not_told_of_the_other() -> None:
    assert all(code.startswith("openssl_") for code in codes("openssl", "OpenSSL 3.0.2 15 Mar 2022"))
    assert all(code.startswith("gnutls_") for code in codes("gnutls", "GnuTLS 3.8.1"))
    assert codes("openssl", "3.0.2") and codes("gnutls", "3.8.1")
    assert codes("wolfssl", "3.0.2") == set()


def test_the_reason_names_release_and_source() -> None:
    for known, reason in known_bad.hits("openssl", "OpenSSL 3.2.0 23 Nov 2023"):
        assert reason.message.startswith("OpenSSL 3.2.0 23 Nov 2023 ") and f"({known.link})" in reason.message
        assert (reason.code, reason.cure) == (known.code, known.cure)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("OpenSSL 3.5.7 9 Jun 2026", (3, 5, 7)),
        ("OpenSSL 3.0.2 15 Mar 2022 (Library: OpenSSL 3.0.2 15 Mar 2022)", (3, 0, 2)),
        ("OpenSSL 1.1.1w  11 Sep 2023", (1, 1, 1)),
        ("OpenSSL 3.5.0-beta1+quic 2 Jan 2025", (3, 5, 0)),
        ("GnuTLS 3.8.10", (3, 8, 10)),
        ("3.8", (3, 8, 0)),
        ("nginx/1.26.3", (1, 26, 3)),
        ("v12", ()),
        ("", ()),
        (None, ()),
        ("٣.٥.٧", ()),  # digits, but not of a version
    ],
)
def test_version_of(said: str | None, version: Version) -> None:
    assert known_bad.version_of(said) == version


def test_without_a_version_nothing_is_known() -> None:
    assert not list(known_bad.hits("openssl", "unknown")) and not list(known_bad.hits("openssl", None))


@given(st.text())
def test_version_of_never_raises(said: str) -> None:
    assert len(known_bad.version_of(said)) in (0, 3)
    assert isinstance(list(known_bad.hits("openssl", said)), list)


@given(_VERSIONS, st.text(alphabet="abc -+", max_size=5))
def test_version_of_finds_what_is_there(version: Version, around: str) -> None:
    assert known_bad.version_of(f"{around}{text(version)}{around}") == version
