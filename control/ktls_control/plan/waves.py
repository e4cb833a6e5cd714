# SPDX-License-Identifier: Apache-2.0
"""Which host goes in which wave. Pure.

A host's place is drawn by a hash of its name and a salt: no order of racks or names decides who is a canary, and the
place is the same whenever it is drawn. Waves are filled one after the other from that order, passing over hosts whose
rack, NIC model or kernel has its fill of the wave; they are first in the next. One host more or less so moves the few
that it takes a place from, and nobody else (docs/decisions/0024-waves-by-hash.md).
"""

from __future__ import annotations

import fnmatch
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction

from ..errors import ControlError

#: More are no rollout that anybody would see the end of.
MOST_WAVES = 500
Labels = Mapping[str, str]


def score(name: str, salt: str) -> int:
    """A host's place in the order: uniform, and its own whoever else there is."""
    return int.from_bytes(hashlib.sha256(f"{salt}\0{name}".encode()).digest()[:8])


def order(hosts: Mapping[str, Labels], salt: str, canaries: Sequence[str] = ()) -> list[str]:
    """Hosts, those first that go first: named canaries, then one of each kernel and NIC model, one of each pair of
    them, then the rest; by :func:`score` within each.

    :param canaries: names or patterns (``web*``).
    """
    drawn = sorted(hosts, key=lambda name: (score(name, salt), name))
    rank = dict.fromkeys(drawn, 3)
    kinds: list[tuple[int, Callable[[Labels], object]]] = [
        (2, lambda labels: (labels.get("kernel"), labels.get("nic_model"))),
        (1, lambda labels: labels.get("nic_model")),
        (1, lambda labels: labels.get("kernel")),
    ]
    for place, kind in kinds:
        for name in _first_of_each(drawn, hosts, kind):
            rank[name] = place
    for name in drawn:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in canaries):
            rank[name] = 0
    return sorted(drawn, key=lambda name: rank[name])


def _first_of_each(drawn: Iterable[str], hosts: Mapping[str, Labels], kind: Callable[[Labels], object]) -> list[str]:
    first: dict[object, str] = {}
    for name in drawn:
        first.setdefault(kind(hosts[name]), name)
    return list(first.values())


def limits(hosts: Mapping[str, Labels], caps: Mapping[str, Fraction]) -> dict[tuple[str, str], int]:
    """How many hosts of each label a wave may hold: its share rounded down, and never none.

    A label that is not known (empty) is not capped: nothing says that those hosts have anything in common.
    """
    counts = Counter((label, labels.get(label, "")) for labels in hosts.values() for label in caps)
    return {
        (label, value): max(1, math.floor(caps[label] * count)) for (label, value), count in counts.items() if value
    }


def assign(
    hosts: Mapping[str, Labels],
    sizes: Sequence[Callable[[int], int]],
    caps: Mapping[str, Fraction],
    salt: str,
    canaries: Sequence[str] = (),
) -> list[list[str]]:
    """Every host in exactly one wave, in the order in which they are asked.

    :param hosts: labels by name.
    :param sizes: how many hosts each wave takes at most, of how many; the last one holds for all that follow.
    :param caps: largest share of the hosts with the same label in one wave, by label.
    :raises ControlError: ``too_many_waves``.
    """
    allowed = limits(hosts, caps)
    left = order(hosts, salt, canaries)
    waves: list[list[str]] = []
    while left:
        size = sizes[min(len(waves), len(sizes) - 1)](len(hosts))
        wave, left = _fill(left, hosts, size, allowed)
        waves.append(wave)
        if len(waves) == MOST_WAVES and left:
            raise ControlError(
                "too_many_waves",
                f"{len(hosts):,} hosts would make more than {MOST_WAVES} waves: raise the last of waves, or caps",
            )
    return waves


def _fill(
    left: Sequence[str], hosts: Mapping[str, Labels], size: int, allowed: Mapping[tuple[str, str], int]
) -> tuple[list[str], list[str]]:
    """The first ``size`` hosts that the caps let in, and who stays for the next wave."""
    wave: list[str] = []
    kept: list[str] = []
    taken: Counter[tuple[str, str]] = Counter()
    for place, name in enumerate(left):
        if len(wave) == size:
            kept += left[place:]
            break
        counted = [item for item in hosts[name].items() if item in allowed]
        if any(taken[item] >= allowed[item] for item in counted):
            kept.append(name)
            continue
        wave.append(name)
        taken.update(counted)
    return wave, kept
