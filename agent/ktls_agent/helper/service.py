# SPDX-License-Identifier: Apache-2.0
"""Root's part of datapath ``service``: look at the unit, give it kernel TLS, take it away.

Which unit, and whether it may be restarted, is in the agent's configuration, which root writes; who asks chooses
nothing but the verb.
"""

from __future__ import annotations

from typing import Any, Callable

from ktls_host import configfile
from ktls_host.datapath import registry
from ktls_host.datapath.service import Settings
from ktls_host.errors import KtlsError
from ktls_host.service import switch
from ktls_host.service.switch import Asked

from ..defaults import CONFIG
from .nic_on import refuse_flagged


def look(path: str = CONFIG, root: str = "/") -> dict[str, Any]:
    """Return by which configuration the unit runs. Raises :class:`KtlsError`."""
    return switch.look(asked(path), root=root).as_dict()


def on(path: str = CONFIG, root: str = "/") -> dict[str, Any]:
    """Give it kernel TLS. Raises :class:`KtlsError`: ``off_latched``, and those of the switch."""
    refuse_flagged(root)
    wanted = asked(path)
    answer = switch.on(wanted, root=root)
    try:
        refuse_flagged(root)
    except KtlsError:
        switch.off(wanted, root=root)
        raise
    return answer


def off(path: str = CONFIG, root: str = "/") -> dict[str, Any]:
    """Take it away. Raises :class:`KtlsError`: those of :func:`ktls_host.service.switch.off`."""
    return switch.off(asked(path), root=root)


def asked(path: str = CONFIG) -> Asked:
    """Return what the configuration at ``path`` names. Raises :class:`KtlsError` ``bad_config``."""
    raw = configfile.read(path, "deploy the role ktls_service")
    chosen = registry.parse(raw.get("datapath", {}) if isinstance(raw, dict) else None, path)
    settings = chosen.settings
    if not isinstance(settings, Settings):
        raise KtlsError("bad_config", f"{path}: the datapath of this host is {chosen.kind}, not service")
    return Asked(settings.unit, settings.backend, settings.consent.restart)


VERBS: dict[str, Callable[[], dict[str, Any]]] = {"look": look, "on": on, "off": off}
