# SPDX-License-Identifier: Apache-2.0
"""Blocks of the probe file inside a payload, wherever they lie. Pure.

Blocks are 32 bytes, and follow one another in the file, so 63 bytes of it in a row always hold a whole one. A payload
may begin with something else (the end of an encrypted record, a record's header), and a frame that was put together
may be clear in its middle only; so every position is looked at. Cheaply: the payload is read as numbers of 8 bytes, at
each of 8 positions, and Python's set compares them all at once with those that blocks begin with. Only where one is
found is a block compared.
"""

from __future__ import annotations

import sys
from typing import Union

from ktls_host.probe_object import probe_bytes

BLOCK = 32
_WORD = 8

Buffer = Union[bytes, bytearray, memoryview]


class Blocks:
    """The blocks of ``content``, whose length is a multiple of 32."""

    def __init__(self, content: bytes) -> None:
        """Index them."""
        self._index = {content[at : at + BLOCK]: at // BLOCK for at in range(0, len(content), BLOCK)}
        self._words = frozenset(int.from_bytes(block[:_WORD], sys.byteorder) for block in self._index)

    def find(self, payload: Buffer) -> int | None:
        """Return the number of the first block that is found in ``payload``, None if there is none."""
        view = memoryview(payload)
        size = len(view)
        if size < BLOCK:
            return None
        for phase in range(_WORD):
            end = phase + (size - phase) // _WORD * _WORD
            words = view[phase:end].cast("B").cast("Q")
            if self._words.isdisjoint(words):
                continue
            for place, word in enumerate(words):
                if word in self._words:
                    at = phase + place * _WORD
                    block = self._index.get(bytes(view[at : at + BLOCK]))
                    if block is not None:
                        return block
        return None


def probe_blocks() -> Blocks:
    """Return the blocks of the probe file."""
    return Blocks(probe_bytes())
