# SPDX-License-Identifier: Apache-2.0
"""Phase ``hw``: whether what a host serves can go to a card, and who watches the wire meanwhile. Pure.

The kernel offloads TLS 1.2 with AES-GCM alone (net/tls/tls_device.c, tls_set_device_offload). So a host is taken when
that is what its clients negotiate today, or when its agent may negotiate it for them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ControlError
from ..judge.hardware import eligible_share, part
from .model import Hardware, Refusal
from .texts import harmless

#: Group of the inventory whose machines watch the wire.
SENTINELS = "ktls_sentinels"

CURES: Mapping[str, str] = {
    "hw_unknown": "see ktls preflight --phase hw; deploy the agent again if it is of an older release",
    "hw_traffic_unknown": (
        "let clients download for a while, then plan again; or consent to TLS 1.2: ktls_agent_tls12_consent: true, and "
        "ktls deploy"
    ),
    "tls13_not_offloaded": (
        "negotiate TLS 1.2 with AES-GCM with these clients; or consent to it for as long as the phase lasts: "
        "ktls_agent_tls12_consent: true, and ktls deploy; or stay at phase tx or rx"
    ),
}


def of_host(status: Mapping[str, Any], min_eligible: float) -> list[Refusal]:
    """Why what this host serves cannot go to its card; nothing when it can.

    :param status: its agent's.
    :param min_eligible: smallest share of its bytes that has to be TLS 1.2 with AES-GCM without a consent.
    """
    found = part(status)
    if found is None or not cards(status):
        said = "reports no interface that can offload TLS" if "hw" in status else "says nothing of network cards"
        return [_refusal("hw_unknown", f"its agent {said}")]
    if consents(status):
        return []
    share = eligible_share(status)
    if share is None:
        return [
            _refusal(
                "hw_traffic_unknown",
                "TLS 1.3 is not offloaded by this kernel, and nothing was sent yet that would show what clients "
                "negotiate",
            )
        ]
    if share >= min_eligible:
        return []
    return [
        _refusal(
            "tls13_not_offloaded",
            f"TLS 1.3 is not offloaded by this kernel: {_percent(share)} of the bytes that it sent are TLS 1.2 with "
            f"AES-GCM and would benefit; for the other {_percent(1 - share)} TLS 1.2 has to be consented to",
        )
    ]


def _refusal(code: str, message: str) -> Refusal:
    return Refusal(code, harmless(message), CURES[code])


def _percent(share: float) -> str:
    """Neither all nor nothing where there is something: 99.97 % does not read as 100 %."""
    percent = 100 * share
    if 0 < percent < 0.1:
        return "less than 0.1 %"
    return f"{int(percent * 10) / 10:g} %"


def cards(status: Mapping[str, Any]) -> dict[str, str]:
    """Driver by name of the interfaces that can offload."""
    found = (part(status) or {}).get("interfaces")
    if not isinstance(found, Sequence) or isinstance(found, str):
        return {}
    return {
        harmless(each["name"]): harmless(each.get("driver") or "unknown")
        for each in found
        if isinstance(each, Mapping) and each.get("name")
    }


def consents(status: Mapping[str, Any]) -> bool:
    """Its agent may negotiate TLS 1.2 while it has the phase."""
    return (part(status) or {}).get("tls12_consent") is True


def hardware(phase: str, sentinels: Sequence[str], without_sentinel: bool) -> Hardware | None:
    """What a plan for ``phase`` says of who watches; None in every phase but ``hw``.

    :param sentinels: hosts of group :data:`SENTINELS` of the inventory.
    :param without_sentinel: an operator has said that there need be none.
    :raises ControlError: ``no_sentinel``.
    """
    if phase != "hw":
        return None
    if without_sentinel:
        return Hardware((), True)
    if not sentinels:
        raise ControlError(
            "no_sentinel",
            f"phase hw needs a sentinel, which sees plaintext on the wire if a card or driver leaks it, and the "
            f"inventory has none: put a machine beside the hosts into group {SENTINELS} and set it up "
            "(playbooks/sentinel.yml, docs/sentinel.md), or say --without-sentinel (-e ktls_without_sentinel=true), "
            "which is recorded",
        )
    return Hardware(tuple(sentinels))
