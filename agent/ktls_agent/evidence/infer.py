# SPDX-License-Identifier: Apache-2.0
"""How many of the connections that nobody saw must have been kernel TLS, and how many cannot have been. Pure.

``/proc/net/tls_stat`` counts the contexts that a network namespace ever opened, one a connection and direction
(``do_tls_setsockopt_conf`` in net/tls/tls_main.c). Take away those that were seen on a connection, and what is left was
opened by connections that came and went between two looks. That bounds their number from both sides, and a number
bounds bytes: if at least n of some connections were kTLS, then at least the bytes of the n smallest were.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

UNBOUNDED = 1 << 62


class Contexts(NamedTuple):
    """Contexts opened since boot, by direction and by who does the work."""

    tx_sw: int = 0
    tx_hw: int = 0
    rx_sw: int = 0
    rx_hw: int = 0


_NAMES = ("TlsTxSw", "TlsTxDevice", "TlsRxSw", "TlsRxDevice")


def contexts(stat: Mapping[str, int] | None) -> Contexts:
    """Return the counters of a tls_stat; none at all where the kernel has no such file, for it has no TLS then."""
    return Contexts(*((stat or {}).get(name, 0) for name in _NAMES))


_NONE, _ANY = Contexts(), Contexts(UNBOUNDED, UNBOUNDED, UNBOUNDED, UNBOUNDED)


@dataclass(frozen=True)
class Bounds:
    """At least ``least`` and at most ``most`` contexts were opened unseen, each of the four kinds by itself."""

    least: Contexts = _NONE
    most: Contexts = _ANY

    def __add__(self, other: Bounds) -> Bounds:
        """Return the bounds over both times."""
        return Bounds(
            Contexts(*map(sum, zip(self.least, other.least))), Contexts(*map(sum, zip(self.most, other.most)))
        )


def bounds(
    before: Contexts, before_end: Contexts, after: Contexts, after_end: Contexts, seen: Sequence[int], complete: bool
) -> Bounds:
    """Return what was opened unseen between two dumps.

    Each dump takes time: the counters were read when it began and when it ended. ``seen``: contexts that were found on
    a connection for the first time since the first dump. Not ``complete``: there may be connections that closed
    without our knowledge, so nothing is certain from below. A counter that fell was reset with its module, and says
    nothing.
    """
    least, most = [], []
    for begun, ended, begins, ends, known in zip(before, before_end, after, after_end, seen):
        reset = not begun <= ended <= begins <= ends
        least.append(max(0, begins - ended - known) if complete and not reset else 0)
        most.append(UNBOUNDED if reset else max(0, ends - begun - known))
    return Bounds(Contexts(*least), Contexts(*most))


def fell(before: Contexts, before_end: Contexts, after: Contexts, after_end: Contexts) -> bool:
    """Return whether a counter fell: the module was loaded anew."""
    return any(not a <= b <= c <= d for a, b, c, d in zip(before, before_end, after, after_end))


class Certain(NamedTuple):
    """What is certain of some unseen connections: how many of them worked so, and at least these bytes."""

    tx: str
    rx: str
    number: int
    sent: int
    received: int


def attribute(
    volumes: Sequence[tuple[int, int]], others: int, unseen: Bounds, receiving: int | None = None
) -> list[Certain]:
    """Return what is certain of connections that sent and received ``volumes``. The rest is not known.

    ``others``: how many more connections may have opened some of the unseen contexts; ``receiving``: those for
    receiving, where that is another number.
    """
    count = len(volumes)
    least, most = unseen.least, unseen.most
    others_rx = others if receiving is None else receiving
    tx, tx_sure = _sure(least.tx_sw, least.tx_hw, most.tx_sw, most.tx_hw, others, count)
    rx, rx_sure = _sure(least.rx_sw, least.rx_hw, most.rx_sw, most.rx_hw, others_rx, count)
    tx_never, rx_never = max(0, count - most.tx_sw - most.tx_hw), max(0, count - most.rx_sw - most.rx_hw)
    sent = sorted(volume[0] for volume in volumes)
    received = sorted(volume[1] for volume in volumes)
    found = []
    for sends, sending in ((tx, tx_sure), ("none", tx_never)):
        for receives, taking in ((rx, rx_sure), ("none", rx_never)):
            # If so many are of this kind and so many of that, then at least so many are of both.
            number = sending + taking - count
            if number > 0:
                found.append(Certain(sends, receives, number, sum(sent[:number]), sum(received[:number])))
    return found


def _sure(least_sw: int, least_hw: int, most_sw: int, most_hw: int, others: int, count: int) -> tuple[str, int]:
    """Return who works where it is kTLS, and for how many of ``count`` it surely is."""
    if most_sw and most_hw:
        return "", 0
    return ("hw" if most_hw else "sw"), min(count, max(0, least_sw + least_hw - others))
