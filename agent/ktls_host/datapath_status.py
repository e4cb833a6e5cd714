# SPDX-License-Identifier: Apache-2.0
"""What an agent's status says of its datapath, key ``datapath``. Pure. Without that key it is the sidecar."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

SIDECAR = "sidecar"
BOTH = "tx+rx"
"""What phase ``tx`` is where the library hands over both directions or none."""
_Count = Optional[int]  # evaluated at run time, where Python 3.9 has no X | None


class Datapath(NamedTuple):
    """``kind``: sidecar, nginx or service. ``modes``: what it can do. ``switch``: live, reload or restart.

    ``experiments``: new connections can be dealt to two arms. ``draining_processes``: old ones that serve what they
    began, and ``draining_connections``: what they still have; None: not known. ``problem``: empty when there is none.
    No dataclass: a zipapp would import and compile what that needs for each task of a rollout.
    """

    kind: str = SIDECAR
    unit: str = ""
    program: str = ""
    version: str = ""
    experiments: bool = True
    modes: tuple[str, ...] = ()
    tx_rx_consent: bool = False
    restart_consent: bool = False
    switch: str = "live"
    draining_processes: _Count = None
    draining_connections: _Count = None
    problem: str = ""

    @property
    def is_sidecar(self) -> bool:
        """Our own server, which tells of each connection."""
        return self.kind == SIDECAR

    @property
    def name(self) -> str:
        """As people read it: ``sidecar``, ``nginx``, ``lighttpd.service``."""
        return self.unit if self.kind == "service" and self.unit else self.kind

    @property
    def draining(self) -> bool:
        """Processes or connections of before the last switch are known to be left."""
        return bool(self.draining_processes or self.draining_connections)

    def means(self, phase: str) -> str:
        """Return what ``phase`` is here: :data:`BOTH` for ``tx`` where that is the only way, else the phase itself."""
        both = not self.is_sidecar and BOTH in self.modes and "tx" not in self.modes
        return BOTH if phase == "tx" and both else phase

    def takes(self, phase: str) -> bool:
        """Return whether it has that phase at all. The sidecar's own are for preflight to speak of."""
        if self.is_sidecar or phase == "userspace":
            return True
        return phase in self.modes or (phase in ("tx", "rx") and BOTH in self.modes)


def of(status: Mapping[str, Any] | None) -> Datapath:
    """Read ``status``. Believes nothing: what is not of its type counts as not said."""
    found = (status or {}).get("datapath")
    if not isinstance(found, Mapping) or not isinstance(found.get("kind"), str):
        return Datapath()
    kind = str(found["kind"])
    modes = found.get("modes")
    consent, draining = _mapping(found.get("consent")), _mapping(found.get("draining"))
    return Datapath(
        kind,
        _text(found.get("unit")),
        _text(found.get("program")),
        _text(found.get("version")),
        found.get("experiments") is True if kind != SIDECAR else found.get("experiments") is not False,
        tuple(str(mode) for mode in modes) if isinstance(modes, (list, tuple)) else (),
        consent.get("tx_rx") is True,
        consent.get("restart") is True,
        _text(found.get("switch")) or "live",
        _count(draining.get("processes")),
        _count(draining.get("connections")),
        _text(found.get("problem")),
    )


def stays(status: Mapping[str, Any]) -> str:
    """Return why it is not shown that new connections are userspace again; nothing when it is.

    An agent says ``userspace`` too while nobody tells it what is in force. The sidecar is then down, and serves nobody;
    another server may well go on.
    """
    found = of(status)
    name = found.unit or found.kind
    if not found.is_sidecar and not isinstance(status.get("sidecar"), Mapping):
        return f"{name} does not answer its agent: {status.get('sidecar_error') or 'no reason given'}"
    if status.get("phase") == "userspace":
        return ""
    said = f"phase {status.get('phase')} is in force after its way back"
    return said + (f": {found.problem}" if found.problem else "")


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
