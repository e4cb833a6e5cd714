# SPDX-License-Identifier: Apache-2.0
"""What is asked for, and for whom: all programs of the host, or services that must be known to systemd."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..commands import Runner
from ..errors import KtlsError
from . import units
from .units import Unit

BACKENDS = ("openssl", "gnutls")
SCOPES = ("service", "system")


@dataclass(frozen=True)
class Request:
    """``services`` are the names of units: whose configuration (scope ``service``), or who may be restarted."""

    backend: str
    scope: str = "service"
    services: tuple[str, ...] = ()
    present: bool = True
    keep_edited: bool = False
    restart_ok: bool = False
    allow_inert: bool = False


@dataclass(frozen=True)
class Target:
    """One thing with a record of its own. ``unit`` is ``None`` for all programs.

    ``members`` are the units that run by it: the unit itself, or the loaded instances of a template.
    """

    backend: str
    unit: Unit | None = None
    members: tuple[str, ...] = ()

    @property
    def name(self) -> str | None:
        """Name of the unit."""
        return None if self.unit is None else self.unit.name

    @property
    def lever(self) -> str:
        """Name of the record: each service has one of its own."""
        return f"policy:{self.backend}:system" if self.name is None else f"policy:{self.backend}:service:{self.name}"


def resolve(request: Request, runner: Runner) -> tuple[Target, ...]:
    """Return the targets, by name. Raises :class:`KtlsError`.

    ``bad_service_name``, ``no_systemd``, ``service_required``, ``unknown_service``, ``service_unusable``.
    """
    if request.scope == "system":
        return (Target(request.backend),)
    if not request.services:
        raise KtlsError(
            "service_required", "scope: service needs the names of services; name one, or say scope: system"
        )
    targets = {}
    for unit in probe_units(request.services, runner, must_exist=request.present):
        members = units.instances(unit.name, runner) if units.is_template(unit.name) else [unit.name]
        targets[unit.name] = Target(request.backend, unit, tuple(members))
    return tuple(targets[name] for name in sorted(targets))


def probe_units(names: Sequence[str], runner: Runner, *, must_exist: bool) -> list[Unit]:
    """Return the units, by name. Raises :class:`KtlsError` as :func:`resolve` does."""
    full = sorted({units.full_name(name) for name in names})
    found = units.probe(full, runner)
    for unit in found if must_exist else ():
        if unit.load_state == "not-found":
            message = f"systemd knows no service {unit.name}; check the name with 'systemctl list-unit-files'"
            raise KtlsError("unknown_service", message)
        if unit.load_state != "loaded":
            message = f"systemd cannot use {unit.name} ({unit.load_state}); see 'systemctl status {unit.name}', mend it"
            raise KtlsError("service_unusable", message)
    return found
