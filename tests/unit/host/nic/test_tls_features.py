# SPDX-License-Identifier: Apache-2.0
"""Which interfaces have TLS features to switch: the kernel of this machine, and one that is played."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import shutil
import socket
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ktls_host.nic import tls_features, udev_rule
from ktls_host.nic.ethtool import parse_features

NAMES = [f"feature-{number}" for number in range(60)]
TX, RX, RECORD = 40, 33, 59
NAMES[TX], NAMES[RX], NAMES[RECORD] = "tls-hw-tx-offload", "tls-hw-rx-offload", "tls-hw-record"


class Kernel:
    """Answers the ioctl as net/ethtool/ioctl.c does. ``features``: interface to (available, requested, active)."""

    def __init__(self, features: dict[str, tuple[int, int, int]]) -> None:
        self.features = features
        self.names = NAMES
        self.errors: dict[str, int] = {}
        self.drivers: dict[str, str] = {}
        self.down: set[str] = set()

    def ioctl(self, _sock: object, number: int, ifreq: bytes) -> int | bytes:
        if number == 0x8913:
            name = ifreq[:16].rstrip(b"\0").decode()
            return ifreq[:16] + struct.pack("=H22x", 0x1002 | (name not in self.down))
        assert (number, len(ifreq)) == (0x8946, 40)
        name, address = struct.unpack("16sQ", ifreq[:24])
        interface = name.rstrip(b"\0").decode()
        if interface in self.errors:
            raise OSError(self.errors[interface], "as the test wants")
        (command,) = struct.unpack("=I", self.read(address, 4))
        if command == 0x37:
            self.write(address + 8, struct.pack("=QI", 1 << 4, len(self.names)))
        elif command == 0x1B:
            text = b"".join(name.encode().ljust(32, b"\0") for name in self.names)
            self.write(address + 8, struct.pack("=I", len(self.names)) + text)
        elif command == 0x3A:
            words = [(bits >> 32 * block) & 0xFFFFFFFF for block in (0, 1) for bits in (*self.features[interface], 0)]
            self.write(address + 4, struct.pack("=I8I", 2, *words))
        elif command == 0x03:
            if interface not in self.drivers:
                raise OSError(errno.EOPNOTSUPP, "no driver")
            self.write(address + 4, self.drivers[interface].encode().ljust(32, b"\0"))
        else:
            raise AssertionError(command)
        return 0

    @staticmethod
    def read(address: int, size: int) -> bytes:
        return ctypes.string_at(address, size)

    @staticmethod
    def write(address: int, data: bytes) -> None:
        ctypes.memmove(address, data, len(data))


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    played = Kernel({"lo": (0, 0, 0), "eth0": (0xFFFF, 0xFF, 0xFF)})
    monkeypatch.setattr(fcntl, "ioctl", played.ioctl)
    monkeypatch.setattr(socket, "if_nameindex", lambda: list(enumerate(played.features)))
    return played


def bit(number: int) -> int:
    return 1 << number


def test_without_tls_features_nothing_is_switchable(kernel: Kernel, tmp_path: Path) -> None:
    assert tls_features.switchable(str(tmp_path)) == ()


@pytest.mark.parametrize("number", [TX, RX, RECORD])
@pytest.mark.parametrize("way", ["can be changed", "asked for", "on"])
def test_a_feature_that_is_there_in_any_way_counts(kernel: Kernel, tmp_path: Path, number: int, way: str) -> None:
    words = {name: bit(number) if name == way else 0 for name in ("can be changed", "asked for", "on")}
    kernel.features["mlx0"] = tuple(words.values())  # type: ignore[assignment]
    assert tls_features.switchable(str(tmp_path)) == ("mlx0",)


def test_features_beside_it_do_not(kernel: Kernel, tmp_path: Path) -> None:
    every = (1 << 60) - 1 - bit(TX) - bit(RX) - bit(RECORD)
    kernel.features["eth1"] = (every, every, every)
    assert tls_features.switchable(str(tmp_path)) == ()


def test_a_kernel_that_knows_no_such_feature(kernel: Kernel, tmp_path: Path) -> None:
    kernel.names = [f"feature-{number}" for number in range(60)]
    kernel.features["eth1"] = ((1 << 60) - 1,) * 3
    assert tls_features.switchable(str(tmp_path)) == ()


def test_our_rule_for_a_link_that_may_come_counts(kernel: Kernel, tmp_path: Path) -> None:
    rule = tmp_path / udev_rule.path("enp1s0").lstrip("/")
    rule.parent.mkdir(parents=True)
    (rule.parent / "70-other.rules").touch()
    assert tls_features.switchable(str(tmp_path)) == ()
    rule.touch()
    assert tls_features.switchable(str(tmp_path)) == ("enp1s0",)


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.ENODEV])
@pytest.mark.parametrize("interface", ["lo", "eth0"])
def test_one_that_does_not_tell_leaves_all_unknown(kernel: Kernel, tmp_path: Path, interface: str, number: int) -> None:
    kernel.errors[interface] = number
    with pytest.raises(OSError) as caught:
        tls_features.switchable(str(tmp_path))
    assert caught.value.errno == number


@pytest.mark.parametrize("count", [0, 257, 2**31])
def test_a_strange_number_of_features_is_not_believed(kernel: Kernel, tmp_path: Path, count: int) -> None:
    kernel.write = lambda address, data: Kernel.write(address, struct.pack("=QI", 16, count))  # type: ignore[method-assign]
    with pytest.raises(OSError, match="features"):
        tls_features.switchable(str(tmp_path))


def test_rules_that_cannot_be_read_leave_all_unknown(kernel: Kernel, tmp_path: Path) -> None:
    place = tmp_path / "etc/udev/rules.d"
    place.parent.mkdir(parents=True)
    place.touch()
    with pytest.raises(NotADirectoryError):
        tls_features.switchable(str(tmp_path))


def test_the_kernel_of_this_machine_says_what_ethtool_says() -> None:
    ethtool: Any = shutil.which("ethtool", path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert ethtool is not None, "tools/prepare installs it"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for _, interface in socket.if_nameindex():
            names, blocks = tls_features._strings(sock, interface), tls_features._blocks(sock, interface)
            printed = subprocess.run([ethtool, "-k", interface], capture_output=True, text=True, check=True).stdout
            for name, feature in parse_features(printed).items():
                if name not in names:
                    continue  # summed up by ethtool
                number = names.index(name)
                available, requested, active, never = (
                    bool(word >> number % 32 & 1) for word in blocks[4 * (number // 32) : 4 * (number // 32) + 4]
                )
                assert (active, not available or never) == (feature.on, feature.fixed), (interface, name)
                assert feature.fixed or requested == feature.requested, (interface, name)


def test_cards_are_interfaces_with_a_feature_their_driver_and_what_is_on(kernel: Kernel) -> None:
    able = bit(TX) | bit(RX)
    kernel.features.update(sim0=(able, able, bit(TX)), eth1=(able, 0, 0), odd0=(able, 0, 0), gone0=(able, 0, 0))
    kernel.drivers.update(sim0="tlssim", eth1="mlx5_core", gone0="x")
    kernel.errors["gone0"] = errno.ENODEV
    kernel.down.add("eth1")
    assert tls_features.cards() == (
        tls_features.TlsCard("eth1", "mlx5_core", False, False, False),
        tls_features.TlsCard("odd0", "", False, False, True),
        tls_features.TlsCard("sim0", "tlssim", True, False, True),
    )
    assert tls_features.driver_of("sim0") == "tlssim"
    assert tls_features.driver_of("odd0") is None
    kernel.errors["eth1"] = errno.EIO
    with pytest.raises(OSError, match="as the test wants"):
        tls_features.cards()
