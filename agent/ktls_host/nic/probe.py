# SPDX-License-Identifier: Apache-2.0
"""Read the network interfaces of a host: sysfs for what they are, ethtool for what they can and do.

Source: Documentation/ABI/testing/sysfs-class-net, netdevice(7), ethtool(8).
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import replace

from ..commands import Runner
from ..errors import KtlsError
from . import drivers, routes
from .ethtool import parse_features, parse_info, parse_statistics
from .interface import Bond, Nic

_NET = "sys/class/net"
_ARPHRD_LOOPBACK = "772"  # include/uapi/linux/if_arp.h
_IFF_UP = 0x1
_LOWER = "lower_"
#: Kinds that ethtool is asked about in any case. A host of containers has hundreds of others.
_ASKED = ("physical", "bond")


def probe(root: str = "/", runner: Runner | None = None, also: Collection[str] = ()) -> tuple[Nic, ...]:
    """Return all interfaces but loopback, by name.

    Starts ethtool for physical interfaces, bonds, those that carry a default route, what is below these, and the
    ones named in ``also``. A host without ethtool is described without features; that is no error.
    """
    runner = runner or Runner()
    default = routes.parse_ipv4(_read(root, "proc/net/route") or "")
    default |= routes.parse_ipv6(_read(root, "proc/net/ipv6_route") or "")
    found = {}
    for name in _names(root):
        nic = _from_sysfs(root, name)
        if nic is not None:
            found[name] = replace(nic, carries_default_route=name in default)
    asked = {
        name
        for name, nic in found.items()
        if nic.kind in _ASKED or nic.carries_default_route or name in also or _may_be_team(nic) or _may_be_lab(nic)
    }
    queue = list(asked)
    while queue:
        lowers = set(found[queue.pop()].lowers) & found.keys()
        queue.extend(lowers - asked)
        asked |= lowers
    return tuple(ask(nic, runner) if name in asked else nic for name, nic in found.items())


def ask(nic: Nic, runner: Runner) -> Nic:
    """Return ``nic`` with what ethtool says of it now."""
    try:
        features = runner.run(("ethtool", "-k", nic.name))
        info = parse_info(runner.run(("ethtool", "-i", nic.name)).stdout)
        driver = info.get("driver") or nic.driver
        counters: dict[str, int] = {}
        if any(drivers.implements(driver).values()):
            counters = drivers.tls_counters(driver, parse_statistics(runner.run(("ethtool", "-S", nic.name)).stdout))
    except KtlsError as error:
        if error.code != "command_missing":
            raise
        return replace(nic, ethtool="missing")
    return replace(
        nic,
        kind=_kind_of_driver(nic.kind, driver),
        driver=driver,
        driver_version=info.get("version"),
        firmware=info.get("firmware-version"),
        bus=info.get("bus-info"),
        features=parse_features(features.stdout),
        counters=counters,
        ethtool="present",
    )


def parse_uevent(text: str) -> dict[str, str]:
    """Return key to value of a sysfs ``uevent`` file."""
    return {key: value for key, equals, value in (line.partition("=") for line in text.splitlines()) if equals}


def _names(root: str) -> list[str]:
    try:
        names = os.listdir(os.path.join(root, _NET))
    except OSError:
        return []
    # bonding_masters lies there too, and is a file.
    return sorted(name for name in names if os.path.isdir(os.path.join(root, _NET, name)))


def _from_sysfs(root: str, name: str) -> Nic | None:
    """Return None for loopback, and for an interface that went away meanwhile."""
    place = f"{_NET}/{name}"
    kind_number = (_read(root, f"{place}/type") or "").strip()
    if kind_number in ("", _ARPHRD_LOOPBACK):
        return None
    lowers = _lowers(root, name)
    bond = _bond(root, name)
    flags = _number(_read(root, f"{place}/flags"))
    return Nic(
        name=name,
        kind="bond" if bond else _kind(root, name, lowers),
        driver=_driver(root, name),
        up=bool(flags & _IFF_UP),
        mac=(_read(root, f"{place}/address") or "").strip() or None,
        lowers=bond.slaves if bond else lowers,
        bond=bond,
    )


def _kind(root: str, name: str, lowers: tuple[str, ...]) -> str:
    place = os.path.join(root, _NET, name)
    devtype = parse_uevent(_read(root, f"{_NET}/{name}/uevent") or "").get("DEVTYPE")
    if devtype in ("vlan", "bridge"):
        return devtype
    if os.path.isdir(f"{place}/bridge"):
        return "bridge"
    if os.path.exists(f"{place}/tun_flags"):
        return "tun"
    if os.path.exists(f"{place}/device"):
        return "physical"
    # A veth names its peer, which is neither itself nor nothing (0) nor below it.
    link, index = (_number(_read(root, f"{_NET}/{name}/{leaf}")) for leaf in ("iflink", "ifindex"))
    return "veth" if link not in (0, index) and not lowers else "virtual"


def _may_be_team(nic: Nic) -> bool:
    """A team says what it is only through ethtool."""
    return nic.kind == "virtual" and len(nic.lowers) > 1


def _may_be_lab(nic: Nic) -> bool:
    """The lab's test device lies over another interface, and says what it is only through ethtool."""
    return nic.kind in ("virtual", "veth") and drivers.in_lab()


def _kind_of_driver(kind: str, driver: str | None) -> str:
    """Correct by the driver what sysfs alone does not tell."""
    if kind in ("veth", "virtual"):
        return driver if driver in ("veth", "team") else "virtual"
    return kind


def _driver(root: str, name: str) -> str | None:
    try:
        return os.path.basename(os.readlink(os.path.join(root, _NET, name, "device/driver"))) or None
    except OSError:
        return None


def _lowers(root: str, name: str) -> tuple[str, ...]:
    try:
        entries = os.listdir(os.path.join(root, _NET, name))
    except OSError:
        return ()
    return tuple(sorted(entry[len(_LOWER) :] for entry in entries if entry.startswith(_LOWER)))


def _bond(root: str, name: str) -> Bond | None:
    """Source: Documentation/networking/bonding.rst; mode and policy are followed by their number."""
    place = f"{_NET}/{name}/bonding"
    mode = _read(root, f"{place}/mode")
    if mode is None:
        return None
    policy, active, slaves = (
        _read(root, f"{place}/{leaf}") or "" for leaf in ("xmit_hash_policy", "active_slave", "slaves")
    )
    return Bond(_first(mode), _first(policy), _first(active), tuple(sorted(slaves.split())))


def _first(text: str) -> str:
    return (text.split() or [""])[0]


def _number(text: str | None) -> int:
    try:
        return int((text or "0").strip(), 0)
    except ValueError:
        return 0


def _read(root: str, path: str) -> str | None:
    """Return the text of a file; None when it is not there, or its interface went away."""
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return None
