# SPDX-License-Identifier: Apache-2.0
"""Which interfaces an ``offload`` wish is about, and whether each can do it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import KtlsError
from ..reasons import Reason
from . import drivers, verdict
from .interface import Nic, by_name, offloading


@dataclass(frozen=True)
class DesiredOffload:
    """What is wanted. One of ``interfaces``, ``driver`` and ``default_route`` says where.

    ``tx`` and ``rx`` of None leave that direction as it is. ``persistent`` keeps the wish across reboots and for a
    link that comes back.
    """

    interfaces: tuple[str, ...] | None = None
    driver: str | None = None
    default_route: bool = False
    tx: bool | None = None
    rx: bool | None = None
    persistent: bool = True

    @property
    def asked(self) -> dict[str, bool]:
        """Return feature to wish, as ethtool names the feature."""
        wishes = (("tx", self.tx), ("rx", self.rx))
        return {drivers.FEATURES[direction]: wish for direction, wish in wishes if wish is not None}

    @property
    def turns_on(self) -> bool:
        """True when anything shall be on. Off is never refused."""
        return bool(self.tx or self.rx)


def select(desired: DesiredOffload, nics: Iterable[Nic]) -> tuple[Nic, ...]:
    """Return the interfaces to act on, each once; a bond stands for its slaves.

    Raises :class:`KtlsError`: ``unknown_interface``, ``no_target``; and where something is turned on
    ``unknown_driver``, ``no_default_route``, ``nic_no_tls_offload``, ``bond_no_tls_offload``,
    ``stacked_no_tls_offload``.
    """
    known = by_name(nics)
    if desired.interfaces is not None:
        chosen = _named(desired.interfaces, known)
    elif desired.driver is not None:
        chosen = [nic for nic in known.values() if nic.driver == desired.driver]
        if not chosen and desired.turns_on:
            raise _unknown_driver(desired.driver, known)
    elif not desired.default_route:
        raise KtlsError("no_target", "nothing says which interface: name interfaces or a driver, or say default_route")
    else:
        chosen = [nic for nic in known.values() if nic.carries_default_route]
        if not chosen and desired.turns_on:
            names = ", ".join(known) or "none"
            message = f"no default route leaves this host; name the interface: there are {names}"
            raise KtlsError("no_default_route", message)
    found: dict[str, Nic] = {}
    for nic in chosen:
        if desired.turns_on:
            _refuse(verdict.not_seen_through(nic))
            if nic.bond and not offloading(nic, known):
                _refuse(verdict.no_offload([nic]))
        found.update({lower.name: lower for lower in offloading(nic, known)})
    return tuple(found[name] for name in sorted(found))


def refuse_unable(nic: Nic, desired: DesiredOffload) -> None:
    """Raise :class:`KtlsError` when ``nic`` cannot do what shall be turned on.

    ``ethtool_missing``, ``nic_no_tls_offload``, ``offload_rx_not_implemented``, ``nic_feature_fixed_off``.
    """
    if nic.ethtool == "missing" and (desired.turns_on or _may_offload(nic)):
        _refuse(verdict.ethtool_missing())
    if not desired.turns_on:
        return
    if not any(nic.implements.values()):
        _refuse(verdict.no_offload([nic]))
    for direction, wish in (("tx", desired.tx), ("rx", desired.rx)):
        if not wish:
            continue
        if not nic.implements[direction]:
            ways = sorted(driver.name for driver in drivers.IMPLEMENTING.values() if getattr(driver, direction))
            message = (
                f"{nic.name}: driver {nic.driver} does not implement TLS offload for {direction}; drivers that do: "
                f"{', '.join(ways)}; leave {direction} out"
            )
            raise KtlsError(f"offload_{direction}_not_implemented", message)
        feature = nic.feature(direction)
        if feature is None or (feature.fixed and not feature.on):
            _refuse(verdict.fixed_off(nic, direction))


def _may_offload(nic: Nic) -> bool:
    """False when ``nic`` cannot have TLS offload on, whatever ethtool would say: then off is so already."""
    return any(nic.implements.values()) or (nic.kind == "physical" and nic.driver not in drivers.NOT_IMPLEMENTING)


def _named(names: Iterable[str], known: dict[str, Nic]) -> list[Nic]:
    unknown = sorted({name for name in names if name not in known})
    if unknown:
        there = ", ".join(known) or "none"
        message = f"there is no interface {', '.join(map(repr, unknown))}; there are: {there}"
        raise KtlsError("unknown_interface", message)
    return [known[name] for name in dict.fromkeys(names)]


def _unknown_driver(driver: str, known: dict[str, Nic]) -> KtlsError:
    here = sorted({f"{nic.name} {nic.driver}" for nic in known.values() if nic.driver})
    message = f"no interface has driver {driver!r}; there are: {', '.join(here) or 'none'}"
    return KtlsError("unknown_driver", message)


def _refuse(reason: Reason | None) -> None:
    if reason is not None:
        raise KtlsError(reason.code, f"{reason.message}; {reason.cure}")
