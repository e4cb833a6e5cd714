# SPDX-License-Identifier: Apache-2.0
"""The order in force, in memory that all processes of the sidecar share: a worker reads it whenever it accepts.

It is one aligned word of 8 bytes. A process stores and loads it in one piece on every 64-bit CPU: CPython copies a
memoryview's item with a memcpy of a constant 8 bytes (Objects/memoryobject.c, pack_single and unpack_single), which
compilers make one instruction, and an aligned access of that size is not divided. One word also needs no barrier:
there is no second one that could be seen too early. Where a CPU takes two accesses, a reader may meet one old and one
new half. So each half carries the low bits of the generation, and a word whose halves differ in them is read again.

One process writes, the supervisor; the others were forked from it and only read.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

USERSPACE = "userspace"
TX = "tx"
RX = "rx"
HW = "hw"
MODES = (USERSPACE, TX, RX, HW)
"""In the order of the phase ladder. ``rx`` is both directions; ``hw`` sends by kTLS, as ``tx`` does, where a network
card may encrypt, and never receives by it: cards that decrypt have hung kernels (docs/decisions/0033)."""

SHARE_STEPS = 1_000_000
_TAG_MASK = 0xFF
_SHARE_BITS, _MODE_BITS, _HALF = 20, 4, 32
_TLS12 = 1 << 3  # of the bits of the mode


class Order(NamedTuple):
    """A mode, the part of new connections that take it (0 to 1, in millionths), and the order's number.

    ``tls12``: those connections negotiate at most TLS 1.2, where the client can do that with AES-GCM.
    """

    mode: str
    share: float
    generation: int
    tls12: bool = False


def pack(order: Order) -> int:
    """Return the word. From the top: 32 bits of the generation; then its low 8 again, 4 of mode, 20 of share."""
    generation = order.generation & 0xFFFFFFFF
    low = (generation & _TAG_MASK) << (_SHARE_BITS + _MODE_BITS)
    mode = MODES.index(order.mode) | (_TLS12 if order.tls12 else 0)
    return generation << _HALF | low | mode << _SHARE_BITS | round(order.share * SHARE_STEPS)


def unpack(word: int) -> Order | None:
    """Return the order; None when ``word`` is put together of two."""
    generation = word >> _HALF
    if generation & _TAG_MASK != word >> (_SHARE_BITS + _MODE_BITS) & _TAG_MASK:
        return None
    mode = word >> _SHARE_BITS & ((1 << _MODE_BITS) - 1)
    share = (word & ((1 << _SHARE_BITS) - 1)) / SHARE_STEPS
    return Order(MODES[mode & (_TLS12 - 1)], share, generation, bool(mode & _TLS12))


class OrderPage:
    """A page of memory that passes on to forked processes: MAP_SHARED | MAP_ANONYMOUS of mmap(2)."""

    def __init__(self) -> None:
        """Begin with userspace. Raises OSError."""
        self._words = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast("Q")
        self.write(Order(USERSPACE, 1.0, 0))

    @property
    def word(self) -> int:
        """The order as a number: it differs when the order does."""
        return self._words[0]

    def read(self) -> Order:
        """Return the order in force."""
        while True:
            order = unpack(self._words[0])
            if order is not None:
                return order

    def write(self, order: Order) -> None:
        """Put ``order`` in force for all who look from now on."""
        self._words[0] = pack(order)
