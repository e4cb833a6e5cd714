# SPDX-License-Identifier: Apache-2.0
"""The user-facing error stays one line and survives a process boundary."""

from __future__ import annotations

import pickle

from ktls_host.errors import KtlsError


def test_message_is_folded_to_one_line() -> None:
    error = KtlsError("some_code", "first\n  second\tthird ")
    assert str(error) == error.message == "first second third"
    assert error.as_dict() == {"code": "some_code", "message": "first second third"}


def test_pickle_keeps_code_and_message() -> None:
    copy = pickle.loads(pickle.dumps(KtlsError("some_code", "why: do this")))
    assert (copy.code, copy.message) == ("some_code", "why: do this")
