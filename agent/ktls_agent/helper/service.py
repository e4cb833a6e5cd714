# SPDX-License-Identifier: Apache-2.0
"""Root's part of datapath ``service``: look at the unit, give it kernel TLS, take it away.

Which unit, and whether it may be restarted, says ``/etc/ktls/service.json``, which is root's. Who asks chooses nothing
but the verb.
"""

from __future__ import annotations

from typing import Any, Callable

from ktls_host.errors import KtlsError
from ktls_host.flagged import flagged
from ktls_host.service import settings, switch


def look(path: str = settings.PATH, root: str = "/") -> dict[str, Any]:
    """Return by which configuration the unit runs. Raises :class:`KtlsError`."""
    asked = settings.load(path)
    return {**switch.look(asked, root=root).as_dict(), "restart_ok": asked.restart_ok}


def on(path: str = settings.PATH, root: str = "/") -> dict[str, Any]:
    """Give it kernel TLS. Raises :class:`KtlsError`: ``off_latched``, and those of the switch."""
    if flagged(root):
        raise _latched()
    asked = settings.load(path)
    answer = switch.on(asked, root=root)
    if flagged(root):
        switch.off(asked, root=root)
        raise _latched()
    return answer


def off(path: str = settings.PATH, root: str = "/") -> dict[str, Any]:
    """Take it away. Raises :class:`KtlsError`: those of :func:`ktls_host.service.switch.off`."""
    return switch.off(settings.load(path), root=root)


def _latched() -> KtlsError:
    return KtlsError("off_latched", "an off flag is set on this host: no service is given kernel TLS")


VERBS: dict[str, Callable[[], dict[str, Any]]] = {"look": look, "on": on, "off": off}
