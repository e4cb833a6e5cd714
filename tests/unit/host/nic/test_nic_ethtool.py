# SPDX-License-Identifier: Apache-2.0
"""Parsers of ethtool's text, on what real kernels printed and on the layouts of cards that are not at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ktls_host.nic import drivers
from ktls_host.nic.ethtool import Feature, parse_features, parse_info, parse_statistics

if TYPE_CHECKING:
    from tests.unit.host.nic.fakenic import documented, recording
else:
    from fakenic import documented, recording

RECORDED = ("debian12", "debian13", "debian13-backports")


@pytest.mark.parametrize("name", RECORDED)
def test_features_of_real_interfaces(name: str) -> None:
    texts = recording(name)["features"]
    virtio = parse_features(texts["eth0"])
    assert virtio["tls-hw-tx-offload"] == Feature(on=False, fixed=True, requested=False)
    assert virtio["generic-segmentation-offload"] == Feature(on=False, fixed=False, requested=True)
    assert virtio["generic-segmentation-offload"].words == "off [requested on]"
    assert virtio["rx-checksumming"] == Feature(on=True, fixed=True, requested=True)
    veth = parse_features(texts["veth0"])
    assert veth["tx-checksum-ip-generic"] == Feature(on=True, fixed=False, requested=True)
    assert veth["tx-checksum-ip-generic"].words == "on"


@pytest.mark.parametrize("name", RECORDED)
def test_no_line_of_a_real_interface_is_lost(name: str) -> None:
    """Each line is a feature, the title, or the sum of indented ones; and words give the line back."""
    for text in recording(name)["features"].values():
        lines = text.splitlines()[1:]
        sums = {line for line, below in zip(lines, lines[1:], strict=False) if below[0] == "\t" != line[0]}
        found = parse_features(text)
        assert len(found) == len(lines) - len(sums) > 50
        rebuilt = {f"{feature}: {state.words}" for feature, state in found.items()}
        assert rebuilt == {line.strip() for line in lines if line not in sums}


def test_tls_record_is_gone_from_the_newest_kernel() -> None:
    there = {name: drivers.RECORD_FEATURE in parse_features(recording(name)["features"]["eth0"]) for name in RECORDED}
    assert there == {"debian12": True, "debian13": True, "debian13-backports": False}


def test_features_of_cards() -> None:
    assert parse_features(documented("mlx5.features"))["tls-hw-tx-offload"] == Feature(True, False, True)
    assert parse_features(documented("mlx5.features"))["tls-hw-rx-offload"] == Feature(False, False, False)
    assert parse_features(documented("mlx5-without-tls.features"))["tls-hw-tx-offload"] == Feature(False, True, False)
    assert parse_features(documented("cxgb4.features"))["tx-checksum-ipv4"] == Feature(True, False, True)


def test_nothing_printed_is_no_features() -> None:
    assert parse_features("") == {}
    assert parse_features("netlink error: No such device\n") == {}


@given(st.text())
def test_any_text_is_parsed(text: str) -> None:
    parse_features(text)
    parse_info(text)
    parse_statistics(text)


def test_info() -> None:
    found = parse_info(documented("mlx5.info"))
    assert found["driver"] == "mlx5_core"
    assert found["firmware-version"] == "22.41.1000 (MT_0000000359)"
    assert found["bus-info"] == "0000:41:00.0"
    assert "expansion-rom-version" not in found
    assert "firmware-version" not in parse_info(recording("debian13")["info"]["br0"])  # N/A


def test_statistics() -> None:
    assert parse_statistics(recording("debian12")["statistics"]["eth0"])["rx_queue_0_xdp_drops"] == 0
    found = parse_statistics(documented("cxgb4.statistics"))
    assert found["-------Loopback----------- 1"] == 0
    assert found["octets_ok"] == 5
    assert parse_statistics(documented("nfp.statistics"))["dev_tx_bytes"] == 2**64 - 1


@pytest.mark.parametrize(("card", "driver"), [("mlx5", "mlx5_core"), ("nfp", "nfp"), ("cxgb4", "cxgb4")])
def test_counters_are_those_of_the_driver(card: str, driver: str) -> None:
    statistics = parse_statistics(documented(f"{card}.statistics"))
    found = drivers.tls_counters(driver, statistics)
    assert set(found) == set(drivers.IMPLEMENTING[driver].counters)
    assert not any(name.startswith("tx0_") for name in found), "counters of single rings"


def test_counters_of_an_unknown_driver_go_by_their_name() -> None:
    assert drivers.tls_counters("new", {"tx_tls_ctx": 1, "tx_packets": 2, "tx3_tls_ctx": 3}) == {"tx_tls_ctx": 1}


def test_no_driver_is_in_both_tables() -> None:
    assert not drivers.IMPLEMENTING.keys() & drivers.NOT_IMPLEMENTING.keys()
    assert {name for name, driver in drivers.IMPLEMENTING.items() if driver.rx} == {"mlx5_core", "nfp"}
    assert all(driver.tx and driver.counters and driver.ciphers for driver in drivers.IMPLEMENTING.values())
    assert all(name in drivers.named() for name in drivers.IMPLEMENTING)


def test_driver_data_is_plain() -> None:
    assert drivers.IMPLEMENTING["mlx5_core"].as_dict()["versions"] == ["TLSv1.2"]
