# SPDX-License-Identifier: Apache-2.0
"""Switch nginx: our one drop-in there or not, its configuration tested before each reload.

Which nginx, and where the drop-in belongs, says ``/etc/ktls/nginx.json``, which is root's. Nobody who asks can say so.
"""

from __future__ import annotations

from typing import Any, Callable

from ktls_host.datapath.model import RX, TX
from ktls_host.nginx import settings
from ktls_host.nginx.root import Nginx


def _nginx() -> Nginx:
    return Nginx(settings.load())


def tx() -> dict[str, Any]:
    """Kernel TLS for new connections, ordered as tx. Raises :class:`KtlsError`: those of :meth:`Nginx.on`."""
    return _nginx().on(TX)


def rx() -> dict[str, Any]:
    """Kernel TLS for new connections, ordered as rx. Raises as :func:`tx`."""
    return _nginx().on(RX)


def userspace() -> dict[str, Any]:
    """Userspace TLS for new connections. Raises :class:`KtlsError`: those of :meth:`Nginx.off`."""
    return _nginx().off()


def check() -> dict[str, Any]:
    """Say whether it could be switched, and change nothing. Raises :class:`KtlsError`: why not."""
    return _nginx().check()


def status() -> dict[str, Any]:
    """Return the switch and the processes."""
    return _nginx().status()


VERBS: dict[str, Callable[[], dict[str, Any]]] = {
    "tx": tx,
    "rx": rx,
    "userspace": userspace,
    "check": check,
    "status": status,
}
