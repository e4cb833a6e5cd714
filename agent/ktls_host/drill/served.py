# SPDX-License-Identifier: Apache-2.0
"""What a drill of another datapath than the sidecar needs: whether it may be, and where its files are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..datapath_status import BOTH, Datapath
from .model import DrillError

#: Files that a switch may touch, by kind of datapath; those of the drop-ins of its unit come on top.
_PLACES: Mapping[str, tuple[str, ...]] = {
    "nginx": ("/etc/nginx/nginx.conf", "/etc/nginx/conf.d/*", "/etc/nginx/**/ktls-*"),
    "service": ("/etc/lighttpd/lighttpd.conf", "/etc/lighttpd/conf-enabled/*"),
}
_UNIT_PLACES = ("/etc/systemd/system/{unit}.d", "/etc/systemd/system/{unit}.d/*", "/run/systemd/system/{unit}.d/*")


def places(datapath: Datapath) -> tuple[str, ...]:
    """Return what has to be as it was beside what every drill looks at; patterns of glob."""
    if datapath.is_sidecar:
        return ()
    own = _UNIT_PLACES if datapath.unit and "/" not in datapath.unit else ()
    return (*_PLACES.get(datapath.kind, ()), *(place.format(unit=datapath.unit) for place in own))


def named(datapath: Datapath) -> dict[str, str]:
    """Return what the drill is good for: another datapath needs one of its own. Nothing of the sidecar."""
    if datapath.is_sidecar:
        return {}
    program = f"{datapath.program} {datapath.version}".strip()
    return {"datapath": f"{datapath.kind} {datapath.unit}".strip(), "program": program}


def refuse(datapath: Datapath, phase: str) -> None:
    """Raise :class:`DrillError` where the datapath cannot take ``phase``, or nobody agreed to what that takes."""
    if datapath.is_sidecar:
        return
    name = datapath.unit or datapath.kind
    if datapath.problem:
        raise DrillError("datapath_problem", f"{name}: {datapath.problem}")
    if not datapath.takes(phase):
        can = ", ".join(datapath.modes) or "nothing that the agent tells of"
        raise DrillError("phase_not_for_datapath", f"{name} has no phase {phase}: it can do {can}")
    if datapath.means(phase) == BOTH and not datapath.tx_rx_consent:
        raise DrillError(
            "tx_means_rx",
            f"phase tx would be tx+rx with {name}: consent to it (ktls_tx_rx_consent: true, and ktls deploy)",
        )
    if datapath.switch == "restart" and not datapath.restart_consent:
        raise DrillError(
            "no_restart_consent",
            f"a drill restarts {name} twice: consent to it (ktls_restart_ok: true, and ktls deploy)",
        )


def kernel_connections(served: Mapping[str, Any]) -> int | None:
    """Return how many of its connections the kernel encrypts or decrypts, by its status; None: it does not say."""
    connections, received = served.get("connections"), served.get("ktls_rx")
    sent = connections.get("ktls_tx") if isinstance(connections, Mapping) else None
    if not isinstance(sent, int):
        return None
    receiving = received.get("connections") if isinstance(received, Mapping) else 0
    return max(sent, receiving) if isinstance(receiving, int) else sent
