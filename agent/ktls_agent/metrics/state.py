# SPDX-License-Identifier: Apache-2.0
"""Families from the agent's status object: orders, the off flag, the self-probe, the agent itself. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ktls_host.datapath.model import fulfils

from .catalogue import family
from .family import Family, Sample

STATES = ("none", "pending", "committed", "reverted", "stuck")
PHASES = ("userspace", "tx", "rx", "hw")
_LIVE = ("pending", "committed")


@dataclass(frozen=True)
class SelfUse:
    """What the agent's own process uses: CPU seconds, resident bytes if known, its start as Unix time in seconds."""

    cpu_s: float
    resident_bytes: int | None
    started_s: float


def ordered_phase(status: Mapping[str, Any]) -> str:
    """Return the phase that must be in force: kTLS only under a live order, and never while off is latched."""
    if status["off"]["flag"] or status["order"] not in _LIVE or not status["ordered_phase"]:
        return "userspace"
    return str(status["ordered_phase"])


def observed_phase(status: Mapping[str, Any]) -> str | None:
    """Return what the sidecar does with new connections; ``None`` while it does not say."""
    return None if status["sidecar"] is None else str(status["phase"])


def drift(status: Mapping[str, Any]) -> bool | None:
    """Return whether ordered and observed phase differ; ``None`` when nothing was observed."""
    observed = observed_phase(status)
    return None if observed is None else not fulfils(observed, ordered_phase(status))


def from_status(status: Mapping[str, Any]) -> Iterator[Family]:
    """Return what the status object says."""
    yield _one_hot("ktls_order_state", STATES, str(status["order"]), "state")
    yield family("ktls_stuck", [Sample(int(bool(status.get("stuck", status["order"] == "stuck"))))])
    yield family("ktls_lapsed", _known(status.get("lapsed")))
    yield family("ktls_epoch", [Sample(status["epoch"])])
    yield family("ktls_lease_seconds_left", _known(status["lease_left_s"]))
    phases: list[Sample] = []
    for of, phase in (("ordered", ordered_phase(status)), ("observed", observed_phase(status))):
        names = dict.fromkeys((*PHASES, *([phase] if phase else [])))
        phases += [Sample(int(name == phase), {"phase": name, "of": of}) for name in names]
    yield family("ktls_phase", phases)
    yield family("ktls_drift", _known(drift(status)))
    yield family("ktls_off_flag", [Sample(int(status["off"]["flag"]))])
    yield family("ktls_off_flag_age_seconds", _known(status["off"]["age_s"]))
    probe = status.get("probe")
    if probe:
        yield family("ktls_probe_success", [Sample(int(probe["ok"]))])
        seen = (("sent", probe["ktls_tx"]), ("received", probe.get("ktls_rx")))
        yield family(
            "ktls_probe_ktls",
            (Sample(int(ktls), {"direction": direction}) for direction, ktls in seen if ktls is not None),
        )
        yield family("ktls_probe_age_seconds", [Sample(probe["at_age_s"])])
        yield family("ktls_probe_duration_seconds", [Sample(probe["duration_s"])])
    host = status["host"]
    about = {"version": status["version"], **{key: str(host.get(key, "")) for key in ("kernel", "openssl", "python")}}
    yield family("ktls_build_info", [Sample(1, about)])
    yield family("ktls_problems", [Sample(len(status["problems"]))])


def from_self(use: SelfUse) -> Iterator[Family]:
    """Return what the agent costs."""
    yield family("ktls_agent_cpu_seconds_total", [Sample(round(use.cpu_s, 3))])
    yield family("ktls_agent_resident_memory_bytes", _known(use.resident_bytes))
    yield family("ktls_agent_start_time_seconds", [Sample(round(use.started_s, 3))])


def _one_hot(name: str, values: tuple[str, ...], current: str, label: str) -> Family:
    known = dict.fromkeys((*values, current))
    return family(name, (Sample(int(value == current), {label: value}) for value in known))


def _known(value: float | bool | None) -> list[Sample]:
    return [] if value is None else [Sample(float(value))]
