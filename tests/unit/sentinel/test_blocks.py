# SPDX-License-Identifier: Apache-2.0
"""Blocks of the probe file in payloads."""

from __future__ import annotations

import hashlib
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host.probe_object import PROBE_SIZE, probe_bytes
from ktls_sentinel.blocks import BLOCK, Blocks, probe_blocks

CONTENT = probe_bytes()
BLOCKS = probe_blocks()


def noise(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@given(st.integers(0, PROBE_SIZE - 63), st.integers(0, 300), st.integers(0, 300), st.integers(0, 1 << 30))
def test_63_bytes_of_the_file_are_found_wherever_they_lie(at: int, before: int, after: int, seed: int) -> None:
    payload = noise(seed, before) + CONTENT[at : at + 63] + noise(seed + 1, after)
    assert BLOCKS.find(payload) == -(-at // BLOCK)


@given(st.integers(0, 70_000), st.integers(0, 1 << 30))
def test_other_bytes_are_not(size: int, seed: int) -> None:
    assert BLOCKS.find(noise(seed, size)) is None


@pytest.mark.parametrize("place", [0, 1, 31, 32, 1447, 40_000, 65_000 - 63])
def test_in_the_middle_of_a_segment_that_was_put_together(place: int) -> None:
    payload = bytearray(noise(3, 65_000))
    payload[place : place + 63] = CONTENT[3201:3264]
    assert BLOCKS.find(memoryview(payload)) == 101


def test_a_block_that_only_begins_like_one_is_none() -> None:
    block = CONTENT[320:352]
    assert BLOCKS.find(block) == 10
    for changed in range(8, BLOCK):
        assert BLOCKS.find(noise(1, 5) + block[:changed] + b"?" + block[changed + 1 :] + noise(2, 5)) is None
    assert BLOCKS.find(block[:31]) is None
    assert BLOCKS.find(noise(1, 40) + block[:31]) is None
    # And one after such a beginning is found.
    assert BLOCKS.find(block[:20] + CONTENT[32:64]) == 1


def test_each_block_of_the_file_is_its_own() -> None:
    assert len({CONTENT[at : at + BLOCK] for at in range(0, PROBE_SIZE, BLOCK)}) == PROBE_SIZE // BLOCK
    assert all(BLOCKS.find(CONTENT[at : at + BLOCK]) == at // BLOCK for at in range(0, PROBE_SIZE, 32 * 61))


def test_two_blocks_with_one_beginning() -> None:
    first, second = b"sameword" + bytes(24), b"sameword" + hashlib.sha256(b"x").digest()[:24]
    assert Blocks(first + second).find(b"abc" + second) == 1
