# SPDX-License-Identifier: Apache-2.0
"""What role ktls_service leaves for root's helper: ``/etc/ktls/service.json``, and the same for `ktls-off`."""

from __future__ import annotations

import re
from typing import Any

from .. import configfile
from ..errors import KtlsError
from . import ways
from .programs import BACKENDS
from .switch import Asked

PATH = "/etc/ktls/service.json"
_UNIT = re.compile(r"[A-Za-z0-9_.@:\\-]{1,200}\.service\Z")


def load(path: str = PATH) -> Asked:
    """Read the file. Raises :class:`KtlsError`: bad_config."""
    return parse(configfile.read(path, "deploy role ktls_service"), path)


def parse(raw: Any, source: str) -> Asked:
    """Check ``raw``: ``unit``, ``backend``, ``restart_ok``. Raises :class:`KtlsError`: bad_config."""
    if not isinstance(raw, dict) or set(raw) != {"unit", "backend", "restart_ok"}:
        raise _bad(source, "does not have unit, backend and restart_ok, and nothing else")
    if not isinstance(raw["unit"], str) or not _UNIT.match(raw["unit"]):
        raise _bad(source, "unit is not the full name of a service")
    if raw["backend"] not in BACKENDS:
        raise _bad(source, f"backend is not one of {', '.join(BACKENDS)}")
    if not isinstance(raw["restart_ok"], bool):
        raise _bad(source, "restart_ok is not true or false")
    return Asked(raw["unit"], raw["backend"], raw["restart_ok"], taken=True)


def for_shell(raw: Any) -> bytes:
    """Return what `ktls-off` needs of it. Raises :class:`KtlsError`: bad_config."""
    asked = parse(raw, "service_config")
    lines = {
        "kind": "service",
        "unit": asked.unit,
        "on": ways.way(asked.backend, asked.unit).drop_in,
        "restart": "yes" if asked.restart_ok else "no",
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items()).encode()


def _bad(source: str, what: str) -> KtlsError:
    return KtlsError("bad_config", f"{source} {what}; deploy role ktls_service again")
