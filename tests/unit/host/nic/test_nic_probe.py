# SPDX-License-Identifier: Apache-2.0
"""The probe on recordings of real hosts, and on cards that are played."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ktls_host.nic.interface import Bond, Nic, below, by_name, offloading
from ktls_host.nic.probe import probe

if TYPE_CHECKING:
    from tests.unit.host.nic.fakenic import FakeHost, RecordedHost
else:
    from fakenic import FakeHost, RecordedHost

RECORDED = ("debian12", "debian13", "debian13-backports")
KINDS = {
    "bond0": "bond",
    "bond0.5": "vlan",
    "bond1": "bond",
    "br0": "bridge",
    "dummy0": "virtual",
    "dummy1": "virtual",
    "dummy2": "virtual",
    "eth0": "physical",
    "eth1": "physical",
    "macvlan0": "virtual",
    "tap0": "tun",
    "team0": "virtual",
    "veth0": "veth",
    "veth1": "veth",
}


@pytest.mark.parametrize("name", RECORDED)
def test_real_host(name: str, tmp_path: Path) -> None:
    recorded = RecordedHost(name, tmp_path)
    nics = by_name(probe(str(tmp_path), recorded))  # type: ignore[arg-type]
    assert {nic.name: nic.kind for nic in nics.values()} == KINDS  # no loopback, and bonding_masters is no interface
    assert {nic.name for nic in nics.values() if nic.carries_default_route} == {"bond0.5", "bond1"}
    assert nics["eth0"].driver == "virtio_net" and nics["eth0"].up and nics["eth0"].driver_version == "1.0.0"
    assert nics["eth0"].mac == "52:54:00:12:34:56" and nics["eth0"].bus == "0000:00:04.0"
    assert nics["bond0"].bond == Bond("active-backup", "layer2", "dummy0", ("dummy0", "dummy1"))
    assert nics["bond1"].bond == Bond("balance-xor", "layer3+4", "", ("dummy2",))
    assert [nic.name for nic in below(nics["bond0.5"], nics)] == ["bond0", "dummy0", "dummy1"]
    assert nics["dummy0"].driver == "dummy", "what is below a default route is asked for"
    assert nics["veth1"].ethtool == "not asked" and nics["veth1"].features == {}
    json.dumps([nic.as_dict() for nic in nics.values()])


@pytest.mark.parametrize("name", RECORDED)
def test_only_what_matters_is_asked(name: str, tmp_path: Path) -> None:
    """A host of containers has hundreds of virtual interfaces."""
    recorded = RecordedHost(name, tmp_path)
    probe(str(tmp_path), recorded)  # type: ignore[arg-type]
    asked = {argv[2] for argv in recorded.asked}
    assert asked == {"eth0", "eth1", "bond0", "bond1", "bond0.5", "dummy0", "dummy1", "dummy2"}
    assert len(recorded.asked) == 2 * len(asked), "-S only where a driver offloads TLS"
    recorded.asked.clear()
    nics = by_name(probe(str(tmp_path), recorded, also=["veth1", "team0", "nowhere"]))  # type: ignore[arg-type]
    assert nics["veth1"].features and nics["veth1"].driver == "veth"
    assert nics["team0"].kind == "team"


def test_bond_features_do_not_tell_what_passes(tmp_path: Path) -> None:
    """Linux 6.1 says on for a bond of dummies that keeps connections on a slave, later kernels say off for all.

    That it says so for one mode and not for the other is how the kernel decides (bond_sk_check), which shows here.
    """
    said = {}
    for name in RECORDED:
        nics = by_name(probe(str(tmp_path / name), RecordedHost(name, tmp_path / name)))  # type: ignore[arg-type]
        for bond in ("bond0", "bond1"):
            said[name, bond] = nics[bond].features["tls-hw-tx-offload"].on
            found = nics[bond].bond
            assert found is not None and found.passes_tls == (bond == "bond1")
    assert {key for key, on in said.items() if on} == {("debian12", "bond1")}


def test_card_with_tls(host: FakeHost) -> None:
    nics = by_name(probe(str(host.root), host))  # type: ignore[arg-type]
    card = nics["mlx0"].as_dict()
    assert card["implements"] == {"tx": True, "rx": True}
    assert card["features"]["tls-hw-tx-offload"] == {"on": False, "fixed": False, "requested": False}
    assert set(card["features"]) == {
        *("tls-hw-tx-offload", "tls-hw-rx-offload", "tx-checksum-ip-generic", "rx-checksumming")
    }
    assert card["counters"] == {"tx_tls_ctx": 7} and card["carries_default_route"] and card["ethtool"] == "present"
    assert nics["chel0"].implements == {"tx": True, "rx": False}
    assert nics["intel0"].implements == {"tx": False, "rx": False} and nics["intel0"].counters == {}


def test_without_ethtool_features_are_unknown(host: FakeHost) -> None:
    host.missing.add("ethtool")
    nics = by_name(probe(str(host.root), host))  # type: ignore[arg-type]
    assert nics["mlx0"].ethtool == "missing" and nics["mlx0"].features == {}
    assert nics["mlx0"].driver == "mlx5_core", "sysfs tells the driver"


def test_a_host_without_network(tmp_path: Path) -> None:
    assert probe(str(tmp_path), RecordedHost("debian13", tmp_path / "other")) == ()  # type: ignore[arg-type]


def test_bond_stands_for_its_slaves_and_vlan_for_itself() -> None:
    nics = by_name(
        [
            Nic("b", "bond", bond=Bond("802.3ad", "layer3+4", "", ("x", "y", "gone")), lowers=("x", "y", "gone")),
            Nic("x", "physical"),
            Nic("y", "physical"),
            Nic("v", "vlan", lowers=("b",)),
        ]
    )
    assert [nic.name for nic in offloading(nics["b"], nics)] == ["x", "y"]
    assert [nic.name for nic in offloading(nics["v"], nics)] == ["v"]
    assert [nic.name for nic in below(nics["v"], nics)] == ["b", "x", "y"]
