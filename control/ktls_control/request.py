# SPDX-License-Identifier: Apache-2.0
"""What an operator asks of the fleet, checked before any host is touched. Pure."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from .errors import ControlError

PHASES = ("userspace", "tx", "rx", "hw")
#: What has to fit into the lease besides the soak: connecting, ordering, reading, confirming (seconds).
LEASE_MARGIN_S = 30.0


@dataclass(frozen=True)
class Request:
    """One playbook's request.

    :param hosts: members of ``group`` in the inventory, None when there is no such group.
    :param waves: sizes as Ansible's ``serial`` takes them: counts, or strings such as ``"25%"``.
    """

    verb: str
    group: str
    hosts: Sequence[str] | None
    phase: str | None = None
    waves: Sequence[object] | None = None
    soak_max_s: float | None = None
    lease_s: float | None = None


def digest(request: Request) -> str:
    """SHA-256 (hex) of what is asked for: the ``plan_sha256`` of its orders until there are plan files."""
    return hashlib.sha256(json.dumps(asdict(request), sort_keys=True).encode()).hexdigest()


def check(request: Request) -> None:
    """:raises ControlError: naming the first thing that is wrong and what to do about it."""
    if request.hosts is None:
        raise ControlError(
            "no_group",
            f"the inventory has no group {request.group!r}: add it, or name yours with -e ktls_group=NAME",
        )
    if not request.hosts:
        raise ControlError("empty_group", f"group {request.group!r} of the inventory has no hosts: add some")
    if request.verb in ("rollout", "preflight"):
        check_phase(request.phase)
    if request.waves is not None:
        _check_waves(request.waves)
    if request.lease_s is not None and request.soak_max_s is not None:
        least = request.soak_max_s + LEASE_MARGIN_S
        if request.lease_s < least:
            raise ControlError(
                "short_lease",
                f"ktls_lease_s is {request.lease_s:g}, but a wave may soak for {request.soak_max_s:g} s: "
                f"set it to {least:g} or more, or hosts revert before they can be confirmed",
            )


def check_consent(request: Request, consent: bool) -> None:
    """:raises ControlError: ``no_consent``: what takes servers away is not begun by a mistyped word."""
    if request.verb == "undeploy" and not consent:
        raise ControlError(
            "no_consent",
            f"undeploy ends the servers of {len(request.hosts or ())} hosts and removes everything of ours: say that "
            "it is meant with -e ktls_undeploy_ok=true (ktls undeploy --yes); --check shows what would go",
        )


def check_phase(phase: str | None) -> str:
    """:raises ControlError: ``no_phase`` or ``unknown_phase``."""
    choices = ", ".join(PHASES)
    if not phase:
        raise ControlError("no_phase", f"which phase? name one with -e ktls_phase=PHASE ({choices})")
    if phase not in PHASES:
        raise ControlError("unknown_phase", f"there is no phase {phase!r}: choose one of {choices}")
    return phase


def _check_waves(waves: Sequence[object]) -> None:
    if not waves:
        raise ControlError("bad_waves", 'ktls_waves is empty: give sizes such as [1, "100%"]')
    for size in waves:
        text = str(size)
        count = re.fullmatch(r"([0-9]+)", text)
        percent = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)%", text)
        good = (count and int(count[1]) > 0) or (percent and 0 < float(percent[1]) <= 100)
        if isinstance(size, bool) or not good:
            raise ControlError(
                "bad_waves", f'ktls_waves: {text!r} is no wave size: give counts or percentages such as 1 or "25%"'
            )
