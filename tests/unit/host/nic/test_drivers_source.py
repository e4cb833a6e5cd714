# SPDX-License-Identifier: Apache-2.0
"""The table of drivers against the kernel's source, recorded by tools/tls_drivers.py from Debian's linux-source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ktls_host.nic import drivers
from ktls_host.nic.drivers import IMPLEMENTING, LAB, NOT_IMPLEMENTING, Driver

RECORDED = Path(__file__).parents[3] / "fixtures" / "host" / "nic"
#: Directories below drivers/net/ethernet that the sources of the table are in.
CHELSIO_ULD = "drivers/net/ethernet/chelsio/inline_crypto/ch_ktls/chcr_ktls.c"


def source(version: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / f"drivers-{version}.json").read_text())
    return found


def directory(driver: Driver) -> str:
    return "/".join(driver.source.split("/")[:4])


@pytest.mark.parametrize("version", ["6.1", "6.12", "7.3"])
def test_these_drivers_and_no_others_set_tlsdev_ops(version: str) -> None:
    found = source(version)["set_tlsdev_ops"]
    # cxgb4 registers what its module ch_ktls does, and is the driver that ethtool names.
    expected = {"drivers/net/ethernet/chelsio/cxgb4/cxgb4_main.c" if d.source == CHELSIO_ULD else d.source
                for d in IMPLEMENTING.values()}  # fmt: skip
    assert set(found) == expected


@pytest.mark.parametrize("version", ["6.1", "6.12", "7.3"])
@pytest.mark.parametrize("driver", IMPLEMENTING.values(), ids=lambda driver: driver.name)
def test_directions_defaults_ciphers_and_counters_are_those_of_the_source(driver: Driver, version: str) -> None:
    recorded = source(version)
    said = {
        words for path, lines in recorded["features"].items() if path.startswith(directory(driver)) for words in lines
    }
    can = {"tx": driver.tx, "rx": driver.rx}
    assert can == {direction: f"hw_features {direction}" in said for direction in can}
    assert driver.default == {direction: f"features {direction}" in said for direction in can}
    mine = recorded["drivers"][driver.name]
    assert set(driver.counters) <= set(mine["counters"])
    ciphers = {name.lower().replace("_", "-") for name in mine["ciphers"]}
    assert {name for name in ciphers if name.startswith("aes-gcm")} == set(driver.ciphers)


def test_no_driver_is_in_two_tables() -> None:
    assert not set(IMPLEMENTING) & set(NOT_IMPLEMENTING)
    assert not set(LAB) & (set(IMPLEMENTING) | set(NOT_IMPLEMENTING))
    assert drivers.find("ice") is None
