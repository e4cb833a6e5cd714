# SPDX-License-Identifier: Apache-2.0
"""What the lever remembers of an interface beside its rule file: the ``facts`` of its record. Pure.

Only what was *requested* can be restored: what a feature then is, the kernel derives from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import KtlsError
from .ethtool import Feature
from .interface import Nic

_PREFIX = "offload:"
_States = dict[str, dict[str, bool]]


@dataclass(frozen=True)
class Memory:
    """``features`` are the changeable ones as they were before the first change, ``on`` and ``requested``.

    ``touched`` are those whose request a change of the lever altered, asked for or not. ``persisted`` is what the
    rule file shall say, by feature. ``pending`` is what the features were right before a change whose end is not
    recorded yet: its process was killed, or runs.
    """

    driver: str | None
    features: _States
    touched: frozenset[str] = frozenset()
    persisted: dict[str, bool] = field(default_factory=dict)
    pending: _States | None = None

    @classmethod
    def first(cls, nic: Nic) -> Memory:
        """Return the memory of an interface that was not touched yet."""
        return cls(nic.driver, changeable(nic))

    @classmethod
    def parse(cls, lever: str, facts: Mapping[str, Any]) -> Memory:
        """Return what was recorded. Raises :class:`KtlsError` ``record_unreadable``."""
        try:
            pending = facts["pending"]
            return cls(
                facts["driver"],
                _states(facts["features"]),
                frozenset(map(str, facts["touched"])),
                {str(name): bool(on) for name, on in facts["persisted"].items()},
                None if pending is None else _states(pending),
            )
        except (KeyError, TypeError, AttributeError) as error:
            message = (
                f"the record of lever {lever} is not one of this release ({error!r}); set the features by hand with "
                f"ethtool -K, then remove the record"
            )
            raise KtlsError("record_unreadable", message) from error

    def as_facts(self) -> dict[str, Any]:
        """Return plain JSON types for the record."""
        return {
            "driver": self.driver,
            "features": self.features,
            "touched": sorted(self.touched),
            "persisted": self.persisted,
            "pending": self.pending,
        }

    def before_change(self, nic: Nic, persisted: Mapping[str, bool]) -> Memory:
        """Return the memory to keep before features of ``nic`` are requested and the rule says ``persisted``."""
        return replace(self.settled(nic), persisted=dict(persisted), pending=changeable(nic))

    def settled(self, nic: Nic) -> Memory:
        """Return the memory after a change ended, or was found to have been cut short: what it did was ours."""
        if self.pending is None:
            return self
        now = changeable(nic)
        changed = {
            name for name, state in self.pending.items() if name in now and now[name]["requested"] != state["requested"]
        }
        return replace(self, touched=self.touched | changed, pending=None)

    def to_restore(self, nic: Nic) -> dict[str, bool]:
        """Return feature to request for those that are not as they were and were touched."""
        return self._different(nic, self.settled(nic).touched, ours=True)

    def left_alone(self, nic: Nic) -> dict[str, bool]:
        """Return feature to its present request for those that somebody else changed meanwhile."""
        different = self._different(nic, self.settled(nic).touched, ours=False)
        return {name: not requested for name, requested in different.items()}

    def _different(self, nic: Nic, touched: frozenset[str], *, ours: bool) -> dict[str, bool]:
        now = changeable(nic)
        return {
            name: state["requested"]
            for name, state in sorted(self.features.items())
            if name in now and now[name]["requested"] != state["requested"] and (name in touched) == ours
        }


def lever_of(interface: str) -> str:
    """Return the name of the record of ``interface``."""
    return f"{_PREFIX}{interface}"


def interface_of(lever: str) -> str | None:
    """Return the interface of a record's name; None for records of other levers."""
    return lever[len(_PREFIX) :] if lever.startswith(_PREFIX) else None


def changeable(nic: Nic) -> _States:
    """Return on and requested of every feature that is not fixed."""
    return {
        name: {"on": feature.on, "requested": feature.requested}
        for name, feature in nic.features.items()
        if not feature.fixed
    }


def recorded_words(state: Mapping[str, bool]) -> str:
    """Return a recorded feature as ``ethtool -k`` would print it."""
    return Feature(state["on"], False, state["requested"]).words


def _states(plain: Mapping[str, Mapping[str, bool]]) -> _States:
    return {
        str(name): {"on": bool(state["on"]), "requested": bool(state["requested"])} for name, state in plain.items()
    }
