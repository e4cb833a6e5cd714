# SPDX-License-Identifier: Apache-2.0
"""What the order machine has done for it. The executor knows how; the machine knows when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Union

from .orders import Order
from .state import Previous, Revert, State


@dataclass(frozen=True)
class PutEpoch:
    """Make the high-water mark durable."""

    epoch: int


@dataclass(frozen=True)
class PutIntent:
    """Make durable that ``order`` is about to be applied, and is to be undone unless confirmed.

    In two files: one for us, and the lease, which a shell can read that runs without us.
    """

    order: Order
    deadline_s: float
    since_s: float = 0.0
    previous: Previous = field(default_factory=Previous)


@dataclass(frozen=True)
class DropIntent:
    """Remove intent and lease, once the outcome of their order is durable."""


@dataclass(frozen=True)
class ArmTimer:
    """Start the second guardian of the lease: a timer of systemd, which needs nothing of ours to be alive."""


@dataclass(frozen=True)
class DisarmTimer:
    """Stop it, once there is no lease left."""


@dataclass(frozen=True)
class DropLapsed:
    """Remove the mark by which the second guardian keeps the sidecar in userspace."""


@dataclass(frozen=True)
class LoadModule:
    """Have module tls loaded."""


@dataclass(frozen=True)
class OffloadOff:
    """Have the TLS features of network cards switched off, so that software is software."""


@dataclass(frozen=True)
class OffloadOn:
    """Have network cards encrypt, for phase hw. Something durable must be there that takes it back."""


@dataclass(frozen=True)
class OffloadBack:
    """Have the cards as they were right before phase hw, if they are not: whatever that phase left."""


@dataclass(frozen=True)
class PutRecord:
    """Make the outcome of an order durable: ``committed`` or ``reverted``."""

    status: str
    order: Order | None
    reason: str | None = None


@dataclass(frozen=True)
class PutFlags:
    """Write whichever off flag is missing, the one in /run first."""

    reason: str


@dataclass(frozen=True)
class DropFlags:
    """Remove both off flags, and the mark that a revert without us was given up."""


@dataclass(frozen=True)
class PutRevert:
    """Make durable how far a revert has come, and whether one was given up."""

    revert: Revert
    stuck: bool


@dataclass(frozen=True)
class Undo:
    """Try the steps of ``State.revert``: the datapath at once, whatever becomes of the others."""


@dataclass(frozen=True)
class SyncMode:
    """Bring the sidecar to ``State.wanted``."""


@dataclass(frozen=True)
class SelfTest:
    """Verify the mode in force and transfer the probe object."""

    order: Order


Effect = Union[
    PutEpoch, PutIntent, DropIntent, PutRecord, PutFlags, DropFlags, PutRevert,
    ArmTimer, DisarmTimer, DropLapsed, LoadModule, OffloadOff, OffloadOn, OffloadBack, SyncMode, SelfTest, Undo,
]  # fmt: skip


@dataclass(frozen=True)
class Transition:
    """The next state, what must succeed before it is in force, and what follows from it."""

    state: State
    prepare: tuple[Effect, ...] = ()
    follow: tuple[Effect, ...] = ()
