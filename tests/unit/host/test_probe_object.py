# SPDX-License-Identifier: Apache-2.0
"""The probe file: the same bytes everywhere, and a hash that notices damage."""

from __future__ import annotations

import hashlib
import zlib

from ktls_host.probe_object import EXPECTED_SHA256, PROBE_SIZE, probe_bytes


def test_size_and_hash_are_the_published_ones() -> None:
    data = probe_bytes()
    assert len(data) == PROBE_SIZE == 16 * 16384
    assert hashlib.sha256(data).hexdigest() == EXPECTED_SHA256
    assert EXPECTED_SHA256 == "0ab43797e762839d11faa31e21a4cd9a8e2137d5312c59191203bc22ea35569e"


def test_no_block_repeats_and_nothing_compresses() -> None:
    data = probe_bytes()
    blocks = {data[start : start + 32] for start in range(0, len(data), 32)}
    assert len(blocks) == PROBE_SIZE // 32
    assert len(zlib.compress(data, 9)) >= PROBE_SIZE
