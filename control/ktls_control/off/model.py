# SPDX-License-Identifier: Apache-2.0
"""What off did, as plain data. Times are seconds since off began on the control node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Who read back: the host's agent, or the shell from the kernel's counters (of the login's network namespace).
AGENT, KERNEL = "agent", "kernel"
#: The configuration is off, and processes that were started with it keep kTLS: nobody consented to a restart.
RESTART_NEEDED = "restart_needed"


@dataclass(frozen=True)
class Outlook:
    """What a host that could not be asked will do by itself.

    :param kind: ``reverts`` (an unconfirmed order's lease), ``holds`` (a confirmed order), ``userspace``, ``unknown``.
    :param deadline: seconds since the epoch (control node) when the lease is over at the latest; None unless
        ``reverts``.
    :param run: the rollout whose journal says so; None: no journal does.
    :param pulls: the host pulls the signed flag, and it says off by now.
    """

    kind: str
    text: str
    deadline: float | None = None
    run: str | None = None
    pulls: bool = False


@dataclass(frozen=True)
class OffResult:
    """What off did on one host, read back from it.

    :param flag: the off flag is up on the host.
    :param off: read back: userspace is in force.
    :param last_new_s: the last new kTLS connection; 0 when there was none after the start of off.
    :param none_left_s: no kTLS connection was left; None while some are, or when nobody could say.
    :param left: kTLS connections still open at the last look.
    :param drained_90_s: nine of ten of the kTLS connections that were open had ended; None as ``none_left_s``.
    :param flag_s: the answer that the flag is up arrived.
    :param by: who read back, ``agent`` or ``kernel``; None: nobody.
    :param code: of ``error``: ``cut_off``, ``flag_failed``, ``not_confirmed``, ``restart_needed``.
    :param note: what could not be read, although the host is off.
    :param datapath: what serves, where it is not the sidecar: kind or unit.
    :param old_processes: those of before that still serve what they began; None: not known.
    """

    host: str
    reachable: bool
    flag: bool
    off: bool
    last_new_s: float | None
    none_left_s: float | None
    left: int | None
    error: str | None
    drained_90_s: float | None = None
    flag_s: float | None = None
    by: str | None = None
    code: str | None = None
    note: str | None = None
    datapath: str | None = None
    old_processes: int | None = None
    outlook: Outlook | None = None
    curve: Sequence[tuple[float, int]] = field(default=(), repr=False)

    @property
    def ok(self) -> bool:
        """The host is back on userspace TLS, and it said so itself."""
        return self.off

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; the curve of open connections is ``[seconds, connections]`` pairs."""
        plain = {name: value for name, value in self.__dict__.items() if name not in ("outlook", "curve")}
        plain["outlook"] = None if self.outlook is None else dict(self.outlook.__dict__)
        plain["curve"] = [list(point) for point in self.curve]
        return plain


def unreached(name: str, why: str) -> OffResult:
    """The result of a host that could not be reached."""
    return OffResult(name, False, False, False, None, None, None, f"{name} unreachable: {why}", code="cut_off")


@dataclass(frozen=True)
class Spread:
    """How a latency spreads over hosts: percentiles by nearest rank, in seconds; None without a host."""

    hosts: int
    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None


@dataclass(frozen=True)
class Latencies:
    """The three latencies of a fleet, of the hosts that answered.

    ``last_new_s`` and ``none_left_s`` are the last host's, None when one that is off cannot tell yet;
    ``drained_90_s`` is when nine of ten of all their connections together had ended.
    """

    last_new_s: float | None
    drained_90_s: float | None
    none_left_s: float | None
    left: int
    spread: Mapping[str, Spread]
