# SPDX-License-Identifier: Apache-2.0
"""One network interface as it was found, and how the kernel passes TLS from one interface on to another. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from . import drivers
from .ethtool import Feature

#: Bonding modes whose sockets stay with one slave when the hash is over ports (bond_main.c bond_sk_check).
_FIXED_SLAVE_MODES = ("802.3ad", "balance-xor")
_FIXED_SLAVE_POLICY = "layer3+4"


@dataclass(frozen=True)
class Bond:
    """A bonding interface: ``active`` is empty where the mode knows no single active slave."""

    mode: str
    policy: str
    active: str
    slaves: tuple[str, ...]

    @property
    def passes_tls(self) -> bool:
        """True when the kernel offloads TLS to the slaves of this bond.

        It does only where a connection never changes its slave. The bond's own TLS features say nothing: since
        Linux 6.3 they are always off, before that they are on even when no slave can do it.
        """
        return self.mode in _FIXED_SLAVE_MODES and self.policy == _FIXED_SLAVE_POLICY


@dataclass(frozen=True)
class Nic:
    """One interface.

    ``kind`` is ``physical``, ``bond``, ``vlan``, ``bridge``, ``team``, ``veth``, ``tun`` or ``virtual``. ``up`` is
    the administrator's wish (IFF_UP), which TLS offload needs. ``lowers`` are the interfaces right below.
    ``features`` has all that ethtool names, and is empty when it was not asked or is missing. ``counters`` are only
    those about TLS. ``ethtool`` is ``present``, ``missing``, or ``not asked`` for virtual interfaces that carry no
    default route.
    """

    name: str
    kind: str
    driver: str | None = None
    driver_version: str | None = None
    firmware: str | None = None
    bus: str | None = None
    up: bool = False
    mac: str | None = None
    carries_default_route: bool = False
    lowers: tuple[str, ...] = ()
    bond: Bond | None = None
    features: dict[str, Feature] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    ethtool: str = "not asked"

    @property
    def implements(self) -> dict[str, bool]:
        """Return by direction whether this interface's driver has TLS offload."""
        return drivers.implements(self.driver)

    def feature(self, direction: str) -> Feature | None:
        """Return the TLS feature of ``tx`` or ``rx``; None when ethtool does not name it."""
        return self.features.get(drivers.FEATURES[direction])

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with the features that TLS offload is about and depends on."""
        wanted = {*drivers.FEATURES.values(), drivers.RECORD_FEATURE}
        wanted |= {name for sets in drivers.NEEDED.values() for names in sets for name in names}
        shown = {name: feature.as_dict() for name, feature in self.features.items() if name in wanted}
        bond = None
        if self.bond:
            bond = {
                "mode": self.bond.mode,
                "xmit_hash_policy": self.bond.policy,
                "active_slave": self.bond.active or None,
                "slaves": list(self.bond.slaves),
                "passes_tls": self.bond.passes_tls,
            }
        return {
            "name": self.name,
            "kind": self.kind,
            "driver": self.driver,
            "driver_version": self.driver_version,
            "firmware": self.firmware,
            "bus": self.bus,
            "up": self.up,
            "mac": self.mac,
            "carries_default_route": self.carries_default_route,
            "lowers": list(self.lowers),
            "bond": bond,
            "features": shown,
            "implements": self.implements,
            "counters": dict(self.counters),
            "ethtool": self.ethtool,
        }


def by_name(nics: Iterable[Nic]) -> dict[str, Nic]:
    """Return name to interface."""
    return {nic.name: nic for nic in nics}


def below(nic: Nic, nics: dict[str, Nic]) -> tuple[Nic, ...]:
    """Return every interface below ``nic``, nearest first, each once."""
    found: dict[str, Nic] = {}
    queue = list(nic.lowers)
    while queue:
        name = queue.pop(0)
        if name in nics and name not in found and name != nic.name:
            found[name] = nics[name]
            queue.extend(nics[name].lowers)
    return tuple(found.values())


def offloading(nic: Nic, nics: dict[str, Nic]) -> tuple[Nic, ...]:
    """Return the interfaces that the kernel asks to offload TLS of connections routed through ``nic``.

    That is the interface itself, or, for a bond, its slaves; the kernel looks through nothing else (net/tls/
    tls_device.c get_netdev_for_sock, whose only ndo_sk_get_lower_dev is bonding's).
    """
    if nic.bond is None:
        return (nic,)
    return tuple(slave for name in nic.bond.slaves if name in nics for slave in offloading(nics[name], nics))
