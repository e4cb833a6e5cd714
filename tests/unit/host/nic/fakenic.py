# SPDX-License-Identifier: Apache-2.0
"""A directory that plays a host with network cards: sysfs, ethtool and udevadm, with the kernel's rules for features.

All state is in files, so that a process that is killed leaves what it did, as on a real host.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FIXTURES = Path(__file__).parents[3] / "fixtures" / "host" / "nic"
TX, RX = "tls-hw-tx-offload", "tls-hw-rx-offload"
CSUM, TSO, RXCSUM = "tx-checksum-ip-generic", "tx-tcp-segmentation", "rx-checksumming"
#: What net/core/dev.c netdev_fix_features drops when the other is off.
_NEEDS = {TX: CSUM, RX: RXCSUM, TSO: CSUM}
#: Lines that only sum up what is indented below them.
_GROUPS = {CSUM: "tx-checksumming", TSO: "tcp-segmentation-offload"}
_ORDER = (RXCSUM, CSUM, TSO, "rx-gro-list", TX, RX)


@dataclass(frozen=True)
class Result:
    """As ktls_host.commands.CommandResult, which has two names here: tests of modules import it under another."""

    rc: int
    stdout: str
    stderr: str

    @property
    def reason(self) -> str:
        return (self.stderr or self.stdout).strip().splitlines()[-1] if self.stderr or self.stdout else f"rc {self.rc}"


class FakeHost:
    """``missing`` are programs that are not installed; ``deaf`` are features that never take."""

    def __init__(self, root: Path, error: Callable[[str, str], Exception]) -> None:
        self.root = root
        self.error = error
        self.missing: set[str] = set()
        self.deaf: set[str] = set()
        self.udev = "257 (257.13-1~deb13u1)"
        self.rejects_rules = False
        self.reload_rc = 0
        self.calls: list[tuple[str, ...]] = []
        self.before_call: Callable[[tuple[str, ...]], None] = lambda argv: None
        for place in ("etc/udev/rules.d", "run", "usr/sbin", "proc/net", "sys/class/net", "fake"):
            (root / place).mkdir(parents=True, exist_ok=True)
        (root / "usr/sbin/ethtool").write_text("#!/bin/sh\n")
        (root / "usr/sbin/ethtool").chmod(0o755)
        self.write("proc/net/route", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\n")
        self.write("proc/net/ipv6_route", "")

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text)

    def add(self, name: str, driver: str, features: dict[str, str] | None = None, lowers: Sequence[str] = ()) -> None:
        """Add a physical card. A feature is ``on``, ``off``, ``on fixed`` or ``off fixed``; ``on`` is requested."""
        usual = {RXCSUM: "on", CSUM: "on", TSO: "on", "rx-gro-list": "off", TX: "off", RX: "off"}
        self._sysfs(name, lowers)
        os.makedirs(self.root / "sys/class/net" / name / "device", exist_ok=True)
        os.symlink(f"../../../bus/pci/drivers/{driver}", self.root / "sys/class/net" / name / "device/driver")
        state = {key: self._state(words) for key, words in {**usual, **(features or {})}.items()}
        self.write(f"fake/{name}.json", json.dumps({"driver": driver, "features": state}))

    def add_bond(self, name: str, mode: str, policy: str, slaves: Sequence[str]) -> None:
        self._sysfs(name, slaves)
        for leaf, text in (("mode", f"{mode} 4"), ("xmit_hash_policy", f"{policy} 1"), ("slaves", " ".join(slaves))):
            self.write(f"sys/class/net/{name}/bonding/{leaf}", f"{text}\n")
        self.write(f"sys/class/net/{name}/bonding/active_slave", "\n")
        self.write(f"fake/{name}.json", json.dumps({"driver": "bonding", "features": {TX: self._state("off fixed")}}))

    def add_vlan(self, name: str, lower: str) -> None:
        self._sysfs(name, [lower], "DEVTYPE=vlan\n")
        self.write(f"fake/{name}.json", json.dumps({"driver": "802.1Q VLAN Support", "features": {}}))

    def add_stacked(self, name: str, driver: str, lower: str) -> None:
        """Add a virtual interface over another one that has features of a card: the lab's test device."""
        self._sysfs(name, [lower])
        self.write(f"sys/class/net/{name}/iflink", "2\n")
        state = {key: self._state(words) for key, words in {RXCSUM: "on", CSUM: "on", TX: "off", RX: "off"}.items()}
        self.write(f"fake/{name}.json", json.dumps({"driver": driver, "features": state}))

    def route(self, name: str) -> None:
        with (self.root / "proc/net/route").open("a") as stream:
            stream.write(f"{name}\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0\n")

    def remove(self, name: str) -> None:
        shutil.rmtree(self.root / "sys/class/net" / name)
        (self.root / "fake" / f"{name}.json").unlink()

    def request(self, name: str, feature: str, on: bool) -> None:
        """What somebody does by hand."""
        assert self.run(("ethtool", "-K", name, feature, "on" if on else "off")).rc == 0
        self.calls.pop()

    def features(self, name: str) -> str:
        """What ``ethtool -k`` prints now."""
        known = self._load(name)["features"]
        lines = [f"Features for {name}:"]
        for feature in sorted(known, key=lambda one: (_ORDER.index(one) if one in _ORDER else 99, one)):
            on, state = self._on(known, feature), known[feature]
            rest = " [fixed]" if state["fixed"] else ""
            if not rest and on != state["wanted"]:
                rest = f" [requested {'on' if state['wanted'] else 'off'}]"
            if feature in _GROUPS:
                lines.append(f"{_GROUPS[feature]}: {'on' if on else 'off'}")
            indent = "\t" if feature in _GROUPS else ""
            lines.append(f"{indent}{feature}: {'on' if on else 'off'}{rest}")
        return "\n".join(lines) + "\n"

    def run(self, argv: Sequence[str], stdin: str | None = None) -> Result:
        """Play a program."""
        argv = tuple(argv)
        self.before_call(argv)
        self.calls.append(argv)
        if argv[0] in self.missing:
            raise self.error("command_missing", f"the program {argv[0]} cannot be run on this host")
        if argv[:2] == ("udevadm", "--version"):
            return Result(0, f"{self.udev}\n", "")
        if argv[:2] == ("udevadm", "verify"):
            assert os.path.exists(argv[2])
            return Result(1, "", "rule:1 Invalid key\n") if self.rejects_rules else Result(0, "", "")
        if argv == ("udevadm", "control", "--reload"):
            return Result(self.reload_rc, "", "" if self.reload_rc == 0 else "Failed to connect to udevd\n")
        assert argv[0] == "ethtool", argv
        if not (self.root / "fake" / f"{argv[2]}.json").exists():
            return Result(1, "", "netlink error: No such device\n")
        if argv[1] == "-k":
            return Result(0, self.features(argv[2]), "")
        if argv[1] == "-i":
            return Result(0, f"driver: {self._load(argv[2])['driver']}\nversion: 6.12\nbus-info: \n", "")
        if argv[1] == "-S":
            return Result(0, "NIC statistics:\n     rx_packets: 1\n     tx_tls_ctx: 7\n", "")
        assert argv[1] == "-K", argv
        return self._change(argv[2], argv[3:])

    def _change(self, name: str, words: Sequence[str]) -> Result:
        plain = self._load(name)
        before = self.features(name)
        for feature, wish in zip(words[::2], words[1::2]):
            if feature not in plain["features"]:
                return Result(92, "", "netlink error: bit name not found\n")
            if not plain["features"][feature]["fixed"]:
                plain["features"][feature]["wanted"] = wish == "on"
            if feature in self.deaf:
                plain["features"][feature]["deaf"] = True
        self.write(f"fake/{name}.json", json.dumps(plain))
        if self.features(name) == before:
            return Result(1, "", "Could not change any device features\n")
        return Result(0, "", "")

    def _on(self, known: dict[str, Any], feature: str) -> bool:
        state = known[feature]
        needed = _NEEDS.get(feature)
        if state.get("deaf"):
            return False
        return bool(state["wanted"]) and (needed is None or needed not in known or self._on(known, needed))

    def _load(self, name: str) -> dict[str, Any]:
        loaded: dict[str, Any] = json.loads((self.root / "fake" / f"{name}.json").read_text())
        return loaded

    def _sysfs(self, name: str, lowers: Sequence[str], uevent: str = "") -> None:
        index = len(list((self.root / "sys/class/net").iterdir())) + 2
        for leaf, text in (("type", "1"), ("flags", "0x1003"), ("address", "02:00:00:00:00:01"), ("uevent", uevent)):
            self.write(f"sys/class/net/{name}/{leaf}", f"{text}\n")
        for leaf in ("ifindex", "iflink"):
            self.write(f"sys/class/net/{name}/{leaf}", f"{index}\n")
        for lower in lowers:
            (self.root / f"sys/class/net/{name}/lower_{lower}").mkdir()

    @staticmethod
    def _state(words: str) -> dict[str, bool]:
        return {"wanted": words.startswith("on"), "fixed": words.endswith("fixed")}

    def snapshot(self) -> dict[str, str]:
        """Everything that has to be as before after a restoration."""
        found = {f"ethtool -k {path.stem}": self.features(path.stem) for path in (self.root / "fake").glob("*.json")}
        for top in ("etc", "var"):
            for path in sorted((self.root / top).rglob("*")):
                if path.is_file():
                    found[str(path.relative_to(self.root))] = f"{path.stat().st_mode:o} {path.read_text()}"
        return found


def recording(name: str) -> dict[str, Any]:
    """One of the recordings of real hosts."""
    loaded: dict[str, Any] = json.loads((FIXTURES / f"recorded-{name}.json").read_text())
    return loaded


def documented(name: str) -> str:
    """Text in the layout that a card's driver gives."""
    return (FIXTURES / f"documented-{name}.txt").read_text()


class RecordedHost:
    """A recording as a directory for the probe, and its programs."""

    def __init__(self, name: str, root: Path) -> None:
        self.recorded = recording(name)
        self.asked: list[tuple[str, ...]] = []
        for path, text in self.recorded["sysfs"].items():
            target = root / "sys/class/net" / path.rstrip("/@")
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.endswith("/"):
                target.mkdir()
            elif path.endswith("@"):
                target.symlink_to(text)
            else:
                target.write_text(text)
        (root / "proc/net").mkdir(parents=True)
        for leaf in ("route", "ipv6_route"):
            (root / "proc/net" / leaf).write_text(self.recorded[leaf])
        (root / "sys/class/net/bonding_masters").write_text("bond0 bond1\n")

    def run(self, argv: Sequence[str], stdin: str | None = None) -> Result:
        self.asked.append(tuple(argv))
        kind = {"-k": "features", "-i": "info", "-S": "statistics"}[argv[1]]
        return Result(0, self.recorded[kind][argv[2]], "")
