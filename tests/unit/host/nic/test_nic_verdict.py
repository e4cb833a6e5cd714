# SPDX-License-Identifier: Apache-2.0
"""Whether phase hw is refused, undecided or ready, as far as cards decide it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ktls_host.nic import drivers
from ktls_host.nic.ethtool import Feature, parse_features
from ktls_host.nic.interface import Bond, Nic
from ktls_host.nic.probe import probe
from ktls_host.nic.verdict import hw_reasons

if TYPE_CHECKING:
    from tests.unit.host.nic.fakenic import RecordedHost, documented
else:
    from fakenic import RecordedHost, documented

CONFIG = {"CONFIG_TLS_DEVICE": "y", "CONFIG_MLX5_EN_TLS": "y"}
MLX5 = Nic("mlx0", "physical", driver="mlx5_core", up=True, carries_default_route=True, ethtool="present")
TLS_OFF = replace(
    MLX5,
    features={**parse_features(documented("mlx5.features")), "tls-hw-tx-offload": Feature(False, False, False)},
)
TLS_ON = replace(MLX5, features=parse_features(documented("mlx5.features")))
RX_ON = replace(MLX5, driver="nfp", features=parse_features(documented("nfp.features")))
WITHOUT = replace(MLX5, features=parse_features(documented("mlx5-without-tls.features")))
VIRTIO = Nic("eth0", "physical", driver="virtio_net", up=True, carries_default_route=True, ethtool="present")
HIDDEN = replace(TLS_OFF, carries_default_route=False)
PASSING = Bond("802.3ad", "layer3+4", "", ("mlx0",))
BACKUP = Bond("active-backup", "layer2", "mlx0", ("mlx0",))


def codes(*nics: Nic, config: dict[str, str] | None = None) -> tuple[list[str], list[str], list[str]]:
    refusals, unknowns, notes = hw_reasons(nics, CONFIG if config is None else config)
    for reason in (*refusals, *unknowns, *notes):
        assert reason.message and reason.cure and "\n" not in reason.message + reason.cure
    return ([one.code for one in refusals], [one.code for one in unknowns], [one.code for one in notes])


def bond(bond_: Bond, name: str = "bond0", route: bool = True) -> Nic:
    return Nic(name, "bond", driver="bonding", bond=bond_, lowers=bond_.slaves, carries_default_route=route)


def vlan(lower: str) -> Nic:
    return Nic("vlan5", "vlan", lowers=(lower,), carries_default_route=True)


def test_a_test_device_outside_of_the_lab_is_no_card(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sim = replace(TLS_ON, name="sim0", kind="virtual", driver="tlssim", lowers=("eth1",))
    (refusal,) = hw_reasons([sim], {})[0]
    assert refusal.code == "lab_device"
    assert "ip link delete sim0" in refusal.cure
    marker = tmp_path / "tlssim"
    marker.touch()
    monkeypatch.setattr(drivers, "LAB_MARKER", str(marker))
    refused, unsure, notes = hw_reasons([sim], {})
    assert (refused, unsure) == ([], [])
    assert "tls13_not_offloaded" in {note.code for note in notes}
    assert "tlssim" not in drivers.named(), "never advised"


def test_tls13_is_told_in_these_words() -> None:
    (note,) = [note for note in hw_reasons([TLS_OFF], {})[2] if note.code == "tls13_not_offloaded"]
    assert note.message.startswith("TLS 1.3 is not offloaded by this kernel")


@pytest.mark.parametrize(
    ("nics", "expected"),
    [
        ([TLS_OFF], ([], [], ["tls13_not_offloaded"])),
        ([TLS_ON], ([], [], ["tls13_not_offloaded", "offload_already_on"])),
        ([RX_ON], ([], [], ["tls13_not_offloaded", "offload_already_on", "rx_offload_on"])),
        ([WITHOUT], (["nic_feature_fixed_off"], [], [])),
        ([MLX5], (["nic_feature_fixed_off"], [], [])),
        ([VIRTIO], (["nic_no_tls_offload"], [], [])),
        ([], (["nic_no_tls_offload"], [], [])),
        ([VIRTIO, HIDDEN], ([], [], ["tls13_not_offloaded", "offload_not_on_default_route"])),
        ([WITHOUT, replace(HIDDEN, name="mlx1")], ([], [], ["tls13_not_offloaded", "offload_not_on_default_route"])),
        ([TLS_OFF, replace(WITHOUT, name="mlx1")], ([], [], ["tls13_not_offloaded"])),
        ([replace(TLS_OFF, up=False)], ([], [], ["tls13_not_offloaded", "nic_down"])),
        ([replace(MLX5, ethtool="missing")], ([], ["ethtool_missing"], [])),
        ([replace(VIRTIO, ethtool="missing")], (["nic_no_tls_offload"], [], [])),
        ([HIDDEN, bond(PASSING)], ([], [], ["tls13_not_offloaded"])),
        ([HIDDEN, bond(BACKUP)], (["bond_no_tls_offload"], [], [])),
        ([HIDDEN, bond(replace(PASSING, policy="layer2"))], (["bond_no_tls_offload"], [], [])),
        ([HIDDEN, bond(replace(PASSING, mode="balance-rr"))], (["bond_no_tls_offload"], [], [])),
        ([HIDDEN, bond(replace(PASSING, mode="balance-xor"))], ([], [], ["tls13_not_offloaded"])),
        ([HIDDEN, vlan("mlx0")], (["stacked_no_tls_offload"], [], [])),
        ([HIDDEN, bond(PASSING, route=False), vlan("bond0")], (["stacked_no_tls_offload"], [], [])),
        # One default route is blocked, another one is not.
        ([TLS_OFF, vlan("mlx0")], ([], [], ["tls13_not_offloaded", "stacked_no_tls_offload"])),
        ([replace(VIRTIO, carries_default_route=False), vlan("eth0")], (["nic_no_tls_offload"], [], [])),
    ],
)
def test_verdicts(nics: list[Nic], expected: tuple[list[str], list[str], list[str]]) -> None:
    assert codes(*nics) == expected


def test_kernel_without_tls_device_is_refused_first() -> None:
    assert codes(TLS_OFF, config={"CONFIG_TLS_DEVICE": "n"})[0] == ["kernel_without_tls_device"]
    assert codes(VIRTIO, config={"CONFIG_TLS_DEVICE": "n"})[0] == ["kernel_without_tls_device", "nic_no_tls_offload"]


def test_unknown_kernel_config_is_no_refusal() -> None:
    refusals, unknowns, notes = hw_reasons([TLS_OFF], None)
    assert (refusals, unknowns, [note.code for note in notes]) == ([], [], ["tls13_not_offloaded"])


def test_checksum_that_tls_needs() -> None:
    off = {**TLS_OFF.features, "tx-checksum-ip-generic": Feature(False, False, False)}
    assert "checksum_offload_off" in codes(replace(TLS_OFF, features=off))[2]
    # Chelsio has the two older ones instead.
    chelsio = replace(TLS_OFF, driver="cxgb4", features=parse_features(documented("cxgb4.features")))
    assert codes(chelsio) == ([], [], ["tls13_not_offloaded"])


def test_refusal_names_what_is_there_and_what_would_do() -> None:
    refusals, _, _ = hw_reasons([VIRTIO], CONFIG)
    assert "eth0 (driver virtio_net: a virtual card" in refusals[0].message
    assert "mlx5_core" in refusals[0].cure and "cxgb4" in refusals[0].cure


def test_fixed_off_says_when_the_kernel_lacks_the_option() -> None:
    refusals, _, _ = hw_reasons([WITHOUT], {"CONFIG_TLS_DEVICE": "y", "CONFIG_MLX5_EN_TLS": "n"})
    assert "without CONFIG_MLX5_EN_TLS" in refusals[0].message
    refusals, _, _ = hw_reasons([WITHOUT], CONFIG)
    assert "CONFIG_MLX5_EN_TLS" in refusals[0].cure and "ConnectX-6 Dx" in refusals[0].cure


@pytest.mark.parametrize("name", ["debian12", "debian13", "debian13-backports"])
def test_lab_hosts_are_refused_by_name(name: str, tmp_path: Path) -> None:
    nics = probe(str(tmp_path), RecordedHost(name, tmp_path))  # type: ignore[arg-type]
    refusals, unknowns, notes = hw_reasons(nics, {"CONFIG_TLS_DEVICE": "y"})
    assert [reason.code for reason in refusals] == ["nic_no_tls_offload"] and not unknowns and not notes
    assert "bond0.5 (vlan over bond0)" in refusals[0].message and "dummy0 (driver dummy)" in refusals[0].message


def test_host_without_default_route_names_its_cards() -> None:
    refusals, _, _ = hw_reasons([replace(VIRTIO, carries_default_route=False)], CONFIG)
    assert "eth0 (driver virtio_net" in refusals[0].message
