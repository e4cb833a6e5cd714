# SPDX-License-Identifier: Apache-2.0
"""What each backend sets for one unit: the variable and value of our drop-in, and the name of its record."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .. import originals, textfile
from ..policy import places
from ..policy.targets import Target
from ..policy.units import Unit
from . import lighttpd
from .programs import BACKENDS, LIGHTTPD


@dataclass(frozen=True)
class Way:
    """``lever`` names the record and the note of its last change; our drop-in gives ``value`` to ``variable``."""

    backend: str
    unit: str
    drop_in: str
    lever: str
    variable: str
    value: str

    def there(self, root: str = "/") -> bool:
        """True when our drop-in is on disk: then the next start gets kernel TLS."""
        return os.path.lexists(textfile.under(root, self.drop_in))

    @property
    def owed(self) -> str:
        """Where `ktls-off` moves the drop-in, which systemd does not read there, until it has told systemd."""
        return f"{self.drop_in}.off"

    def recorded(self, root: str = "/") -> bool:
        """True when what was before our drop-in is on record: from before it is written until it was taken back."""
        return os.path.lexists(textfile.under(root, originals.record_path(self.lever)))

    def loaded(self, unit: Unit) -> bool:
        """True when systemd has it, so that the next start really gets it."""
        return f"{self.variable}={self.value}" in unit.environment


def way(backend: str, unit: str) -> Way:
    """Return how ``unit`` is switched by ``backend``."""
    if backend == LIGHTTPD:
        lever, value = lighttpd.lever(unit), lighttpd.VALUE
        return Way(backend, unit, lighttpd.drop_in(unit), lever, lighttpd.VARIABLE, value)
    config, drop_in = places.service_files(unit, backend)
    return Way(backend, unit, drop_in, Target(backend, Unit(unit)).lever, places.VARIABLES[backend], config)


def every(unit: str) -> tuple[Way, ...]:
    """Return the ways of all backends."""
    return tuple(way(backend, unit) for backend in BACKENDS)


def on_disk(unit: str, root: str = "/") -> tuple[Way, ...]:
    """Return the ways whose drop-in is there: one, unless the unit changed its library while it was switched on."""
    return tuple(found for found in every(unit) if found.there(root))


def owed(unit: str, root: str = "/") -> bool:
    """Return whether `ktls-off` has renamed a drop-in and was not done with the unit."""
    return any(os.path.lexists(textfile.under(root, found.owed)) for found in every(unit))
