# SPDX-License-Identifier: Apache-2.0
"""TLS features of interfaces, and whose driver they are: asked of the kernel, without a program and without rights.

``ioctl(SIOCETHTOOL)`` with ETHTOOL_GSSET_INFO, ETHTOOL_GSTRINGS, ETHTOOL_GFEATURES and ETHTOOL_GDRVINFO, which
net/ethtool/ioctl.c (``dev_ethtool``) allows to everybody, on a socket of any family (netdevice(7)); the structures
are those of include/uapi/linux/ethtool.h. The kernel takes its lock of all interfaces for it (RTNL): a driver that
hangs makes the question hang, so give it a thread and a time.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from .drivers import FEATURES, RECORD_FEATURE

_SIOCETHTOOL = 0x8946
_GSTRINGS, _GSSET_INFO, _GFEATURES, _GDRVINFO = 0x1B, 0x37, 0x3A, 0x03
_SIOCGIFFLAGS, _IFF_UP = 0x8913, 0x1
_DRVINFO = 196  # bytes of struct ethtool_drvinfo, the driver's name from the fifth on
_NETLINK_ROUTE = 0
_ETH_SS_FEATURES = 4
_GSTRING_LEN = 32
_BLOCKS = 8  # of 32 features each; the kernel fills as many as it has, at most these
_MAX_FEATURES, _MAX_INTERFACES = 32 * _BLOCKS, 4096
_IFREQ = struct.Struct("=16sQ16x")  # struct ifreq of a 64-bit kernel: the name, then a pointer to what is asked
_BLOCK = struct.Struct("=4I")  # available, requested, active, never_changed
_NAMES = frozenset((*FEATURES.values(), RECORD_FEATURE))
# Of udev_rule.path(), whose module needs more than an agent should hold.
_RULES, _RULE, _RULE_END = "etc/udev/rules.d", "90-ktls-fleet-offload-", ".rules"


def switchable(root: str = "/") -> tuple[str, ...]:
    """Return the interfaces of this network namespace with something to switch off, sorted; none is an answer, too.

    That is a TLS feature that is on, asked for, or can be changed; or a udev rule of ours, which may switch one on
    when its link comes.

    Raises OSError when the kernel does not tell, or not of all of them: then nothing is known.
    """
    found = _ruled(os.path.join(root, _RULES))
    interfaces = _interfaces()
    with _socket() as sock:
        if interfaces:
            numbers = [number for number, name in enumerate(_strings(sock, interfaces[0])) if name in _NAMES]
            found.update(name for name in interfaces if _has(_blocks(sock, name), numbers))
    return tuple(sorted(found))


@dataclass(frozen=True)
class TlsCard:
    """One interface with a TLS feature that is on or can be changed. ``up``: the administrator's wish (IFF_UP)."""

    name: str
    driver: str
    tx_on: bool
    rx_on: bool
    up: bool


def cards() -> tuple[TlsCard, ...]:
    """Return the interfaces of this network namespace with a TLS feature for one direction, by name.

    An interface that goes away meanwhile is left out. Raises OSError when the kernel does not tell.
    """
    found = []
    interfaces = _interfaces()
    with _socket() as sock:
        names = _strings(sock, interfaces[0]) if interfaces else []
        numbers = {direction: names.index(name) for direction, name in FEATURES.items() if name in names}
        for name in interfaces:
            try:
                blocks = _blocks(sock, name)
                if not _has(blocks, list(numbers.values())):
                    continue
                on = {direction: _is_on(blocks, number) for direction, number in numbers.items()}
                driver = driver_of(name) or ""
                found.append(TlsCard(name, driver, on.get("tx", False), on.get("rx", False), _is_up(sock, name)))
            except OSError as error:
                if error.errno != errno.ENODEV:
                    raise
    return tuple(sorted(found, key=lambda card: card.name))


def driver_of(interface: str) -> str | None:
    """Return the driver as ``ethtool -i`` names it, of a virtual interface too; None where the kernel says none."""
    try:
        with _socket() as sock:
            return _driver(sock, interface) or None
    except OSError:
        return None


def _interfaces() -> list[str]:
    interfaces = [name for _, name in socket.if_nameindex()]
    if len(interfaces) > _MAX_INTERFACES:
        raise OSError(errno.E2BIG, f"there are {len(interfaces)} interfaces")
    return interfaces


def _socket() -> socket.socket:
    # Of the one family that agent and helpers may all use.
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE)


def _driver(sock: socket.socket, interface: str) -> str:
    asked = array.array("I", [_GDRVINFO] + [0] * (_DRVINFO // 4 - 1))
    _ask(sock, interface, asked)
    return asked.tobytes()[4:36].split(b"\0", 1)[0].decode("ascii", "replace")


def _is_up(sock: socket.socket, interface: str) -> bool:
    answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("=16s24x", os.fsencode(interface)[:15]))
    return bool(struct.unpack_from("=H", answer, 16)[0] & _IFF_UP)


def _ruled(directory: str) -> set[str]:
    """Return the interfaces that a rule of ours is about."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return set()
    return {name[len(_RULE) : -len(_RULE_END)] for name in names if name.startswith(_RULE) and name.endswith(_RULE_END)}


def _has(blocks: array.array[int], numbers: list[int]) -> bool:
    """Whether one of the features with these ``numbers`` can be changed, is asked for, or is on."""
    data = blocks.tobytes()
    for number in numbers:
        available, requested, active, _ = _BLOCK.unpack_from(data, _BLOCK.size * (number // 32))
        if (available | requested | active) >> (number % 32) & 1:
            return True
    return False


def _is_on(blocks: array.array[int], number: int) -> bool:
    return bool(_BLOCK.unpack_from(blocks.tobytes(), _BLOCK.size * (number // 32))[2] >> (number % 32) & 1)


def _strings(sock: socket.socket, interface: str) -> list[str]:
    """Return the kernel's names of features, which are the same for all interfaces, by their number."""
    asked = array.array("I", [_GSSET_INFO, 0, 1 << _ETH_SS_FEATURES, 0, 0])
    _ask(sock, interface, asked)
    count = asked[4]
    if asked[2] != 1 << _ETH_SS_FEATURES or not 0 < count <= _MAX_FEATURES:
        raise OSError(errno.EPROTO, f"the kernel has {count} features")
    text = array.array("I", struct.pack("=3I", _GSTRINGS, _ETH_SS_FEATURES, count) + bytes(count * _GSTRING_LEN))
    _ask(sock, interface, text)
    data = text.tobytes()[12:]
    names = [data[start : start + _GSTRING_LEN] for start in range(0, len(data), _GSTRING_LEN)]
    return [name.split(b"\0", 1)[0].decode("ascii", "replace") for name in names]


def _blocks(sock: socket.socket, interface: str) -> array.array[int]:
    """Return the features of one interface, four words for each 32 of them."""
    asked = array.array("I", [_GFEATURES, _BLOCKS] + [0] * (4 * _BLOCKS))
    _ask(sock, interface, asked)
    return asked[2:]


def _ask(sock: socket.socket, interface: str, asked: array.array[int]) -> None:
    """Let the kernel answer into ``asked``."""
    name = os.fsencode(interface)
    if len(name) > 15:
        raise OSError(errno.ENAMETOOLONG, interface)
    address, _ = asked.buffer_info()
    fcntl.ioctl(sock, _SIOCETHTOOL, _IFREQ.pack(name, address))
