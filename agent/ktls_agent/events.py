# SPDX-License-Identifier: Apache-2.0
"""What can happen to the order machine. All times are on CLOCK_BOOTTIME."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

from .orders import Order
from .state import Revert, StepResult


@dataclass(frozen=True)
class OrderCame:
    """A checked order. ``flag`` and ``ktls`` are read from the host at this moment; ``loadable``: kTLS can be had."""

    order: Order
    now_s: float
    flag: bool
    ktls: bool
    loadable: bool = False
    connection: int = 0


@dataclass(frozen=True)
class TestPassed:
    """The self-test of ``order`` passed."""

    order: Order


@dataclass(frozen=True)
class ConfirmCame:
    """The control node confirms over a new connection."""

    id: str
    epoch: int
    now_s: float
    flag: bool
    connection: int = 0


@dataclass(frozen=True)
class ExtendCame:
    """The control node wants the pending order to hold ``lease_s`` seconds from now on."""

    id: str
    epoch: int
    lease_s: float
    now_s: float


@dataclass(frozen=True)
class CancelCame:
    """The control node takes back this order, and no other."""

    id: str
    epoch: int


@dataclass(frozen=True)
class RevertCame:
    """Back to userspace. With ``order``: only if that order is still the pending one."""

    reason: str
    order: Order | None = None
    unload: bool = False


@dataclass(frozen=True)
class UndoTried:
    """The steps of ``revert`` were tried once, with these results.

    :param waiting: a helper is still at work, and has yet to say what it came to.
    """

    revert: Revert
    steps: tuple[StepResult, ...]
    waiting: bool = False


@dataclass(frozen=True)
class OffCame:
    """The kill switch."""

    reason: str


@dataclass(frozen=True)
class ClearCame:
    """Root takes the off flag away, or has repaired what a revert was stuck on."""


@dataclass(frozen=True)
class Ticked:
    """Time passes. ``flag``: an off flag exists; ``both``: both do. ``lapsed`` and ``stuck``: marks of the shell."""

    now_s: float
    flag: bool
    both: bool = True
    reason: str = ""
    lapsed: bool = False
    stuck: bool = False


Event = Union[
    OrderCame, TestPassed, ConfirmCame, ExtendCame, CancelCame, RevertCame, UndoTried, OffCame, ClearCame, Ticked
]
