# SPDX-License-Identifier: Apache-2.0
"""Whose fault it was, and how long a connection lives."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_sidecar.counters import Counters
from ktls_sidecar.faults import KERNEL_KINDS, blame, kind_of
from ktls_sidecar.lifetime import Lifetime
from ktls_sidecar.metrics import render
from ktls_sidecar.openssl import TlsError
from ktls_sidecar.openssl.errors import ErrorEntry
from tests.unit.sidecar.support import report_of

SSL = 20
BAD_MAC = ErrorEntry(SSL, 1020, "sslv3 alert bad record mac")
OTHER_ALERT = ErrorEntry(SSL, 1042, "sslv3 alert bad certificate")
NO_LAYER = ErrorEntry(SSL, 322, "no suitable record layer")
MEMORY = ErrorEntry(SSL, (0x3 << 18) | 256, "malloc failure")
BROKEN = ErrorEntry(SSL, 281, "decryption failed or bad record mac")
TOO_LONG = ErrorEntry(SSL, 198, "packet length too long")
WRONG_VERSION = ErrorEntry(SSL, 267, "wrong version number")


@pytest.mark.parametrize(
    ("error", "handshaking", "expected"),
    [
        (TlsError("SSL_write", (), errno.EPIPE), False, (False, "reset")),
        (TlsError("SSL_do_handshake", (), errno.ECONNRESET), True, (False, "handshake")),
        (TlsError("SSL_do_handshake", (BAD_MAC,), 0), True, (False, "handshake")),
        (TlsError("SSL_write", (MEMORY,), 0), False, (True, "ssl_error")),
        (TlsError("SSL_do_handshake", (MEMORY,), 0), True, (True, "ssl_error")),
        (TlsError("SSL_read", (ErrorEntry(57, 108, "invalid aad"), MEMORY), 0), False, (False, "bad_record")),
        (TlsError("SSL_read", (NO_LAYER,), 0), False, (True, "key_update")),
        (TlsError("SSL_write", (NO_LAYER,), 0), False, (True, "key_update")),
        (TlsError("SSL_read", (BAD_MAC,), 0), False, (True, "bad_record_mac")),
        (TlsError("SSL_read", (OTHER_ALERT,), 0), False, (False, "alert")),
        (TlsError("SSL_read", (BROKEN,), 0), False, (False, "bad_record")),
        (TlsError("SSL_sendfile", (), errno.EIO), False, (True, "sendfile_failed")),
        (TlsError("SSL_sendfile", (), errno.EPIPE), False, (False, "reset")),
        (TlsError("SSL_sendfile", (), errno.EBADMSG), False, (True, "bad_record")),
        (TlsError("SSL_sendfile", (ErrorEntry(SSL, 276, "uninitialized"),), errno.EMSGSIZE), False, (True, "too_big")),
        (TlsError("SSL_read", (), errno.EKEYEXPIRED), False, (True, "key_expired")),
        (TlsError("SSL_write", (), errno.EBADMSG), False, (True, "bad_record")),
        (TlsError("SSL_do_handshake", (), errno.EBADMSG), True, (True, "bad_record")),
        (TlsError("SSL_read", (TOO_LONG,), 0), False, (False, "bad_record")),
        (TlsError("SSL_write", (), errno.EIO), False, (True, "io_error")),
        (TlsError("SSL_write", (BROKEN,), 0), False, (True, "ssl_error")),
    ],
)
def test_blame(error: TlsError, handshaking: bool, expected: tuple[bool, str]) -> None:
    assert blame(error, handshaking) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TlsError("SSL_read", (BROKEN,), 0), (True, "bad_record")),
        (TlsError("SSL_read", (TOO_LONG,), 0), (True, "too_big")),
        (TlsError("SSL_read", (WRONG_VERSION,), 0), (False, "bad_record")),
        (TlsError("SSL_read", (NO_LAYER,), 0), (True, "key_update")),
        (TlsError("SSL_read", (BAD_MAC,), 0), (True, "bad_record_mac")),
        (TlsError("SSL_read", (OTHER_ALERT,), 0), (False, "alert")),
        (TlsError("SSL_read", (ErrorEntry(57, 281, "of another library"),), 0), (False, "bad_record")),
    ],
)
def test_what_the_kernel_cannot_decrypt_is_ours(error: TlsError, expected: tuple[bool, str]) -> None:
    assert blame(error, handshaking=False, kernel_reads=True) == expected


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.EBADMSG, "bad_record"),
        (errno.EKEYEXPIRED, "key_expired"),
        (errno.EMSGSIZE, "too_big"),
        (errno.EIO, "io_error"),
        (None, "io_error"),
    ],
)
def test_errors_of_system_calls(number: int | None, kind: str) -> None:
    assert kind_of(number) == kind


@given(st.floats(0, 1e6), st.floats(1, 1e5))
def test_a_life_ends_by_age_within_the_last_tenth(begun: float, age: float) -> None:
    lifetime = Lifetime(begun, age, 100)
    assert lifetime.over(begun + 0.89 * age, 100) is None
    assert lifetime.over(begun + 1.01 * age, 100) == "age"


def test_a_life_ends_by_bytes() -> None:
    lifetime = Lifetime(0, 10, 100)
    assert lifetime.over(1, 100) is None
    assert lifetime.over(1, 101) == "bytes"


def test_what_kernel_tls_may_cause_is_always_in_the_metrics() -> None:
    counters = Counters()
    counters.errors["too_big"] += 2
    lines = render(report_of(counters.snapshot())).splitlines()
    for kind in KERNEL_KINDS:
        assert f'ktls_sidecar_errors_total{{kind="{kind}"}} {2 if kind == "too_big" else 0}' in lines
